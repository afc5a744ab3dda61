"""A model card in each student's folder: its figures, and how they were measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from lana.common.console import change, figure, milliseconds
from lana.common.files import write_text
from lana.common.progress import counted
from lana.delivery.example_code import example_code
from lana.delivery.summary import Summary
from lana.models.preprocessing import Preprocessing

_MEASURED = """\
The student and the teacher are measured in turns, in fresh processes. Milliseconds are the median ratio over processes,
times the teacher's own {teacher_ms:.4g} ms, which was frozen once per run. The upper bound is the one-sided 95% bound
over processes.
"""

_PREDICTED = "The student was not measured: its milliseconds are predicted, and the budget is not verified.\n"


def write_card(folder: Path, summary: Summary, notes: Sequence[str] = ()) -> Path:
    """Write `README.md` in a student's folder."""
    return write_text(folder / "README.md", card(summary, notes))


def card(summary: Summary, notes: Sequence[str] = ()) -> str:
    """The card as Markdown; `notes` tell what comes out."""
    table = "\n".join(f"| {name} | {teacher} | {student} |" for name, teacher, student in _rows(summary))
    within = "within" if summary.verified else "NOT verified to be within"
    verdict = f"{within} its budget of {summary.budget_ms:.4g} ms"
    if summary.max_loss is not None:
        verdict = f"the fastest that is expected to lose at most {summary.max_loss:g},"
    replaced = [f"| {layer} | {name} |" for layer, name in summary.selection.items() if name != "teacher"]
    versions = ", ".join(f"{name} {version}" for name, version in summary.versions.items())
    how = _PREDICTED if summary.measured_ms is None else _MEASURED.format(teacher_ms=summary.teacher_ms)
    parity, error = "", summary.onnx_max_relative_error
    if error is not None:
        parity = f"The ONNX file's outputs differ from PyTorch's by at most {error:.1e} of the largest.\n"
    warning = f"\n**Warning**: {summary.ruin}\n" if summary.ruin else ""
    return f"""\
# {summary.student}
{warning}
A student of `{summary.model}` by lana (Latency-Aware Network Acceleration), {verdict}
on {summary.runtime}, {counted(summary.threads, "thread")}, batch {summary.batch}.

| | teacher | student |
| --- | --- | --- |
{table}

{how}
{parity}Seed {summary.seed}; {versions}.

## Use

```python
import lana
student = lana.load_student("this folder")  # the teacher's code must be present
```

or `model.onnx` with any runtime (input `input`, output `output`).
{"".join(f"{chr(10)}{note}{chr(10)}" for note in notes)}{_input(summary)}
## Replaced layers

| layer | operation |
| --- | --- |
{chr(10).join(replaced)}
"""


def _input(summary: Summary) -> str:
    """The inputs of the network, its classes, and how to run its file on an image."""
    if summary.preprocessing is None:
        return ""
    images, text = Preprocessing(**summary.preprocessing), ""
    if summary.classes:
        shown = ", ".join(summary.classes[:CLASSES_SHOWN]) + (" …" if len(summary.classes) > CLASSES_SHOWN else "")
        text = f"Classes, in their order: {shown}. All {len(summary.classes)} are in `model.onnx` and `summary.json`.\n"
    answer = "boxes" if summary.metric.startswith("mAP") else "names" if summary.classes else "numbers"
    code = example_code(asdict(images), resized=images.resized, batch=summary.batch, answer=answer)
    return f"""
## Input

Images of {images}.
{text}
```python
{code}```
"""


CLASSES_SHOWN = 20


def _rows(summary: Summary) -> list[tuple[str, str, str]]:
    """Figures by name: the teacher's and the student's."""
    return [
        (f"{summary.metric} (test, {summary.test_examples} images)", figure(summary.teacher_accuracy),
         figure(summary.student_accuracy)),
        *([(f"{summary.metric}, less the teacher's (95% interval)", "", " to ".join(map(change, interval)))]
          if (interval := summary.accuracy_change95) else []),
        *((name, figure(teacher), figure(own)) for name, (teacher, own) in summary.other_metrics.items()),
        (f"{summary.metric} before fine-tuning", "", figure(summary.selected_accuracy)),
        ("milliseconds", milliseconds(summary.teacher_ms), milliseconds(summary.measured_ms)),
        ("milliseconds, upper 95% bound", "", milliseconds(summary.measured_ms_upper95)),
        ("milliseconds, predicted", "", milliseconds(summary.predicted_ms)),
        ("parameters", f"{summary.teacher_parameters:,}", f"{summary.student_parameters or 0:,}"),
    ]  # fmt: skip
