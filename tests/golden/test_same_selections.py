"""The selection is a function of the recipe, the table, the scores and the logs: from frozen ones it stays the same."""

from pathlib import Path

import make
import pytest
import today

FOLDERS = [Path(__file__).parent / name for name in make.BUDGETS]
by_network = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)


@by_network
def test_the_table_decides_what_is_trained(folder):
    assert make.kept(folder) == make.read(folder / "kept.json")


@by_network
def test_selections_at_three_budgets(folder):
    found, expected = make.selections(folder), make.read(folder / "selections.json")
    assert found.keys() == expected.keys()
    for budget, selection in expected.items():
        assert found[budget]["accepted"] == selection["accepted"], budget
        assert found[budget]["diverse"] == selection["diverse"], budget
        assert len(selection["diverse"]) == make.COUNT
        for figures in ("ratios", "losses", "predicted_ms"):
            assert found[budget][figures] == pytest.approx(selection[figures], rel=1e-6)


def test_layers_and_spans_of_the_bundled_example():
    found = {name: {**layer} for name, layer in today.layers_of("digits-resnet").items()}
    expected = make.read(FOLDERS[0] / "layers.json")
    assert list(found) == list(expected)
    for name, layer in expected.items():
        assert found[name] == {key: tuple(v) if isinstance(v, list) else v for key, v in layer.items()}


def test_the_default_pool_offers_the_same_operations():
    expected: dict[str, list[str]] = {}
    for layer, operation in today.pairs_of(FOLDERS[0]):
        expected.setdefault(layer, []).append(operation)
    assert today.offered_at("digits-resnet") == expected
