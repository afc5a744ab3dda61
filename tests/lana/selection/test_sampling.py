from simulated_device import Device, make_model

from lana.selection.sampling import sample, spread

MODEL = make_model(Device().ms())


def test_sampled_students_lie_within_the_band():
    middle_ms = 0.5 * MODEL.teacher_ms
    sampled = sample(MODEL, middle_ms, 8)
    assert len(set(sampled)) == len(sampled) >= 4
    assert all(0.95 <= MODEL.predicted_ms(selection) / middle_ms <= 1.05 for selection in sampled)


def test_spread_students_become_slower_towards_the_teacher():
    latencies_ms = [MODEL.predicted_ms(selection) for selection in spread(MODEL, [0.0, 0.3, 0.6, 0.9])]
    assert latencies_ms == sorted(latencies_ms)
    assert latencies_ms[0] < 0.5 * MODEL.teacher_ms < latencies_ms[-1] < MODEL.teacher_ms
