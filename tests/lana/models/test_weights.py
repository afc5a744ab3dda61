import re
from argparse import Namespace

import pytest
import torch
from safetensors.torch import load_file, save_file, save_model
from torch import nn

from lana.errors import UserError
from lana.models.weights import load_weights, read_state_dict


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_bad_weights_files_are_refused(tmp_path, suffix):
    with pytest.raises(UserError, match="There is no weights file"):
        read_state_dict(tmp_path / f"none{suffix}")
    broken = tmp_path / f"broken{suffix}"
    broken.write_bytes(b"PK\x03\x04 not weights")
    with pytest.raises(UserError, match="not a readable weights file"):
        read_state_dict(broken)


def test_a_truncated_file_is_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.zeros(100)}, path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match="truncated"):
        read_state_dict(path)


def test_wrappers_and_prefixes_are_opened(tmp_path):
    torch.save({"state_dict": {"a": torch.ones(1)}, "epoch": 3}, tmp_path / "w.pt")
    assert read_state_dict(tmp_path / "w.pt") == {"a": torch.ones(1)}
    for prefix in ("", "module.", "model."):
        torch.save({"state_dict": {f"{prefix}weight": torch.full((1, 1), 7.0)}}, tmp_path / "w.pt")
        load_weights(linear := nn.Linear(1, 1, bias=False), tmp_path / "w.pt")
        assert linear.weight.item() == 7.0


def test_weights_that_do_not_fit_name_the_keys(tmp_path):
    save_file({"weight": torch.zeros(2, 3), "extra": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(
        UserError, match=r"weight: \(2, 3\) in the file, \(4, 3\) in the model.*missing .*bias.*unknown .*extra"
    ):
        load_weights(torch.nn.Linear(3, 4), tmp_path / "w.safetensors")


class Versioned(nn.Linear):
    """A module that asks for its version when it is loaded, as torchvision's MNASNet does."""

    _version = 2

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *rest):
        if local_metadata.get("version") != 2:
            raise ValueError("version should be set to 2")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)


def test_a_module_that_asks_for_its_version_is_loaded(tmp_path):
    from lana.models.student_files import _load_in_full

    module = Versioned(3, 2)
    save_file(module.state_dict(), tmp_path / "weights.safetensors")
    for load in (load_weights, _load_in_full):
        again = Versioned(3, 2)
        load(again, tmp_path / "weights.safetensors")
        assert torch.equal(again.weight, module.weight)


def test_a_file_may_hold_one_of_two_tensors_that_are_the_same(tmp_path):
    def tied():
        network = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
        network[1].weight = network[0].weight
        return network

    save_model(tied(), tmp_path / "w.safetensors")
    load_weights(module := tied(), tmp_path / "w.safetensors")
    assert torch.equal(module[1].weight, load_file(tmp_path / "w.safetensors")["0.weight"])


def test_a_checkpoint_that_calls_its_weights_otherwise_is_opened(tmp_path):
    torch.save({"net": {"a": torch.ones(1)}, "acc": 3, "best": {}}, tmp_path / "w.pt")
    assert read_state_dict(tmp_path / "w.pt") == {"a": torch.ones(1)}
    torch.save({"net": {"a": torch.ones(1)}, "critic": {"a": torch.zeros(1)}}, tmp_path / "two.pt")
    with pytest.raises(UserError, match=r"holds no state dict .*, but: net, critic\. Choose one: .*two\.pt::net\."):
        read_state_dict(tmp_path / "two.pt")
    assert read_state_dict(f"{tmp_path}/two.pt::critic") == {"a": torch.zeros(1)}


def linear(value):
    return {"weight": torch.full((1, 1), float(value))}


def beneath(prefix, value):
    return {f"{prefix}{name}": tensor for name, tensor in linear(value).items()}


def loaded(path):
    load_weights(made := nn.Linear(1, 1, bias=False), path)
    return made.weight.item()


RAW, AVERAGED = 1.0, 2.0


@pytest.mark.parametrize(
    ("content", "raw"),
    [
        ({"state_dict": linear(RAW), "state_dict_ema": linear(AVERAGED)}, "state_dict"),
        ({"model": linear(RAW), "model_ema": {"n_averaged": torch.tensor(9), **beneath("module.", AVERAGED)}}, "model"),
        ({"model": linear(RAW), "ema": {"module": linear(AVERAGED), "updates": 9}}, "model"),
        ({"net": linear(RAW), "ema": linear(AVERAGED)}, "net"),
        ({"model": {"state_dict": linear(RAW)}, "swa_state_dict": linear(AVERAGED)}, "model"),
        ({"model": {"net": linear(RAW), "net_ema": linear(AVERAGED)}}, "model.net"),
        ({"state_dict": {**beneath("model.", RAW), **beneath("ema_model.", AVERAGED)}}, "model"),
    ],
)
def test_the_averaged_weights_are_taken_and_a_line_names_both(tmp_path, caplog, content, raw):
    caplog.set_level("INFO")
    torch.save(content, file := tmp_path / "w.pt")
    assert loaded(file) == AVERAGED
    assert "the averaged weights are taken" in caplog.text
    assert loaded(f"{file}::{raw}") == RAW


def test_the_averaged_weights_of_mmengine_are_where_the_raw_ones_are_elsewhere(tmp_path):
    meta = {"mmengine_version": "0.10.4", "epoch": 3}
    content = {"meta": meta, "state_dict": linear(AVERAGED), "ema_state_dict": beneath("module.", RAW)}
    torch.save(content, tmp_path / "w.pt")
    assert loaded(tmp_path / "w.pt") == AVERAGED


def test_averages_that_hold_no_names_are_told(tmp_path, caplog):
    caplog.set_level("INFO")
    torch.save({"model": linear(RAW), "ema": {"shadow_params": [torch.ones(1, 1)]}}, tmp_path / "w.pt")
    assert loaded(tmp_path / "w.pt") == RAW
    assert "ema holds no tensors by name; model is taken instead" in caplog.text


@pytest.mark.parametrize(
    ("content", "left"),
    [
        (beneath("module._orig_mod.", 7), ""),
        (beneath("model._orig_mod.", 7), ""),
        (beneath("model.module.net.", 7), ""),
        ({"n_averaged": torch.tensor(9), **beneath("module.", 7)}, "left out: n_averaged"),
        ({**beneath("model.", 7), "criterion.weight": torch.ones(10)}, "left out: criterion.weight"),
        ({**linear(7), "criterion.weight": torch.ones(10)}, "left out: criterion.weight"),
        ({**beneath("model.", 7), "head.bias": torch.ones(4)}, "the part 'model' of .* left out: head.bias"),
        ({"epoch": 3, **linear(7)}, "left out, as no tensors: epoch"),
        ({"epoch": 3, "optimizer": {"state": {0: {"a": torch.ones(1)}}, "param_groups": []}, **linear(7)}, "epoch"),
        ({"args": Namespace(lr=0.1), "model": linear(7)}, ""),
    ],
)
def test_the_part_that_fits_exactly_is_taken_and_what_was_left_is_told(tmp_path, caplog, content, left):
    caplog.set_level("INFO")
    torch.save(content, tmp_path / "w.pt")
    assert loaded(tmp_path / "w.pt") == 7
    assert re.search(left, caplog.text)
    assert bool(caplog.text) == bool(left)


def test_parts_of_wrappers_inside_a_network_are_passed_over(tmp_path):
    network = nn.ModuleDict({"features": nn.Linear(2, 2), "module": nn.Linear(2, 2)})
    state = {f"features._orig_mod.{name}": value for name, value in network["features"].state_dict().items()}
    state |= {f"module.{name}": value for name, value in network["module"].state_dict().items()}
    torch.save(state, tmp_path / "w.pt")
    load_weights(again := nn.ModuleDict({"features": nn.Linear(2, 2), "module": nn.Linear(2, 2)}), tmp_path / "w.pt")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({**beneath("student.", 1), **beneath("teacher.", 2)}, "several parts that fit the model: student.; teacher."),
        ({**linear(1), "deeper.weight": torch.ones(1, 1)}, r"unknown to the model: 1 .deeper\.weight"),
        ({**beneath("model.", 1), "model.head.bias": torch.ones(3)}, "unknown to the model: 1 .head.bias"),
    ],
)
def test_a_part_that_is_not_the_only_one_is_refused(tmp_path, content, expected):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(UserError, match=expected):
        loaded(tmp_path / "w.pt")


def test_a_key_that_is_not_there_names_the_others(tmp_path):
    torch.save({"state_dict": beneath("net.", 1), "state_dict_ema": beneath("net.", 2)}, tmp_path / "w.pt")
    with pytest.raises(UserError, match="no weights under 'stat', but under: state_dict; state_dict_ema; net"):
        loaded(f"{tmp_path}/w.pt::stat")
    assert loaded(f"{tmp_path}/w.pt::state_dict.net") == 1
