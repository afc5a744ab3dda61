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
    torch.save({"net": {"a": torch.ones(1)}, "ema": {"a": torch.ones(1)}}, tmp_path / "two.pt")
    with pytest.raises(UserError, match=r"holds no state dict .*, but: net, ema\."):
        read_state_dict(tmp_path / "two.pt")
