"""A summary as of a finished student, made by hand."""

from lana.delivery.summary import Summary


def make_summary(**changes):
    given = {
        "student": "0.5x", "model": "net.py:build", "runtime": "onnxruntime-cpu", "threads": 1, "batch": 1,
        "budget_ms": 1.0, "teacher_ms": 2.0, "metric": "accuracy", "teacher_accuracy": 0.9, "test_examples": 100,
        "teacher_parameters": 1000, "predicted_ms": 0.95, "measured_ms": 0.9, "measured_ms_upper95": 0.91,
        "verified": True, "speedup": 2.2, "budget_used": 0.9, "selected_accuracy": 0.8, "student_accuracy": 0.85,
        "student_parameters": 500,
    }  # fmt: skip
    return Summary(**{**given, **changes})
