import pytest
import torch

from lana.config.options import FineTuning
from lana.data.augmentation import Mixed, augmented, mix, random_resized_crop, resolve, shift_and_flip
from lana.errors import UserError
from lana.evaluation.task import Classification
from lana.training.finetuning import _view
from lana.training.losses import student_loss


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_crops_keep_the_shape_and_repeat_by_their_seed():
    inputs = torch.rand(1, 3, 96, 128, generator=generator()).expand(8, -1, -1, -1)
    crops = random_resized_crop(inputs, generator(1), flip=True)
    assert crops.shape == inputs.shape
    assert not torch.allclose(crops[0], crops[1])
    assert torch.equal(crops, random_resized_crop(inputs, generator(1), flip=True))
    assert crops.min() >= -1e-5
    assert crops.max() <= 1 + 1e-5


def test_a_crop_is_mirrored_only_where_asked():
    ramp = torch.linspace(0, 1, 100).expand(64, 1, 100, 100)  # grows to the right
    plain = random_resized_crop(ramp, generator(), flip=False)
    assert (plain[..., -1] > plain[..., 0]).all()
    assert ((plain[..., -1] - plain[..., 0]) < 1.001).all()
    flipped = random_resized_crop(ramp, generator(), flip=True)
    assert 10 < (flipped[:, 0, 50, -1] < flipped[:, 0, 50, 0]).sum() < 54


def test_mixup_blends_and_cutmix_pastes_by_the_share():
    inputs = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 1, 20, 20)
    blended, partners, share, _ = mix(inputs, 1.0, generator(3), cut=False)
    assert torch.allclose(blended, share * inputs + (1 - share) * inputs[partners])
    pasted, partners, share, _ = mix(inputs, 1.0, generator(3), cut=True)
    own = (pasted == inputs).float().mean((1, 2, 3))
    moved = partners != torch.arange(6)
    assert torch.allclose(own[moved], torch.full((int(moved.sum()),), share))


def test_labels_are_weighted_by_what_is_in_the_image():
    logits, own, partner = torch.randn(4, 3, generator=generator()), torch.zeros(4).long(), torch.ones(4).long()
    task, settings = Classification(), FineTuning(distillation=0.0)
    loss = student_loss(logits, None, Mixed(own, partner, 0.25), task, settings)
    assert loss == pytest.approx(0.25 * task.loss(logits, own).mean() + 0.75 * task.loss(logits, partner).mean())


def test_with_both_each_batch_draws_one_and_kept_outputs_know_it():
    batches = [(torch.rand(4, 3, 8, 8), torch.arange(4))] * 20
    shares = [labels.share for _, labels in augmented(iter(batches), crop=False, mixup=1.0, cutmix=1.0, seed=0)]
    of_pixels = [share for share in shares if share * 64 == round(share * 64)]
    assert 4 < len(of_pixels) < 16
    plain = FineTuning()
    views = {_view(plain, "shift"), _view(plain, "crop"), _view(FineTuning(mixup=0.2), "shift")}
    assert len(views) == 3


def test_where_a_rectangle_is_pasted_its_labels_are_too():
    maps = torch.randint(0, 9, (8, 16, 16))
    inputs = maps[:, None].float()
    [(pasted, labels)] = augmented(iter([(inputs, maps)]), crop=False, mixup=0.0, cutmix=1.0, seed=0)
    assert torch.equal(pasted[:, 0], labels.float())
    assert not torch.equal(labels, maps)


def test_large_images_are_cropped_small_ones_shifted():
    assert resolve("auto", (3, 224, 224)) == "crop"
    assert resolve("auto", (1, 28, 28)) == "shift"
    assert resolve("shift", (3, 224, 224)) == "shift"


def test_images_whose_labels_are_maps_are_not_cropped():
    inputs, maps = torch.rand(4, 3, 96, 96), torch.randint(0, 2, (4, 96, 96))
    (same, labels), (cropped, _) = (
        next(iter(augmented(iter([(inputs, told)]), crop=True, mixup=0.0, cutmix=0.0, seed=0)))
        for told in (maps, torch.arange(4))
    )
    assert torch.equal(same, inputs)
    assert torch.equal(labels, maps)
    assert not torch.equal(cropped, inputs)


def test_rectangles_are_pasted_in_images_only():
    with pytest.raises(UserError, match=r"these inputs have the shape \(8, 80\)"):
        next(augmented(iter([(torch.ones(8, 80), torch.zeros(8))]), crop=False, mixup=0.0, cutmix=1.0, seed=0))


def test_augmentation_moves_by_an_eighth_at_most():
    image = torch.zeros(64, 3, 8, 8)
    image[:, :, 4, 4] = 1
    moved = shift_and_flip(image, torch.Generator().manual_seed(0), flip=False)
    rows, columns = moved[:, 0].nonzero()[:, 1], moved[:, 0].nonzero()[:, 2]
    assert set(rows.tolist()) == set(columns.tolist()) == {3, 4, 5}
    flipped = shift_and_flip(image, torch.Generator().manual_seed(0), flip=True)
    assert set(flipped[:, 0].nonzero()[:, 2].tolist()) == {2, 3, 4, 5}
