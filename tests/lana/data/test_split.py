import torch

from lana.data.split import from_arrays


def test_an_epoch_is_decided_by_its_seed():
    split = from_arrays(torch.arange(10.0).view(10, 1), torch.arange(10), None)
    first, again, other = (
        torch.cat([labels for _, labels in split.epoch(3, seed=seed)]).tolist() for seed in (1, 1, 2)
    )
    assert first == again != other
    assert len(set(first)) == 9
    assert split.steps(3) == 3
