import copy
import pickle

import pytest

from lana.models.selection import Selection


def test_equal_whatever_the_order_and_the_layers_kept():
    one, other = Selection({"b": "identity", "a": "linear_k1"}), Selection([("a", "linear_k1"), ("b", "identity")])
    assert one == other == Selection({"c": "teacher", **other})
    assert len({one, other}) == 1
    assert one == {"b": "identity", "a": "linear_k1"}
    assert one != Selection({"a": "identity"})
    assert list(one) == ["a", "b"]


def test_it_cannot_be_changed():
    with pytest.raises(TypeError):
        Selection({"a": "identity"})["a"] = "linear_k1"


def test_copies_are_equal():
    selection = Selection({"a": "identity"})
    assert pickle.loads(pickle.dumps(selection)) == copy.deepcopy(selection) == selection


def test_in_full_a_span_replaces_the_layers_it_covers():
    selection = Selection({"b+c": "merged_w0.5"})
    assert selection.replaced_layers == ["b", "c"]
    assert selection.in_full(["a", "b", "c"]) == {"a": "teacher", "b+c": "merged_w0.5"}
