import io
import pickle

import numpy as np
import pyarrow as pa
import pytest
import torch
from pictures import fill, picture, picture_teacher
from PIL import Image
from pyarrow import parquet

from lana.data.images import to_pixels
from lana.data.loading import load_data
from lana.errors import UserError
from lana.models.preprocessing import Preprocessing


@pytest.fixture
def teacher():
    return picture_teacher()


def test_grey_of_sixteen_bits_keeps_its_upper_half():
    grey = Preprocessing(image_size=2, mean=(0.5,), std=(0.5,))
    image = Image.fromarray(np.array([[0, 256], [32768, 65535]], np.uint16))
    assert to_pixels(image, grey).tolist() == [[[0, 1], [128, 255]]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 255.0]], np.float32), [0, 255]),
        (np.array([[0, 0]], np.float32), [0, 0]),
        (np.array([[0, 0.7]], np.float32), "its floats run from 0 to 0.7"),
        (np.array([[-3, 99]], np.float32), "its floats run from -3 to 99"),
        (np.array([[0, 1 << 20]], np.int32), "its values run from 0 to 1048576"),
    ],
)
def test_values_that_would_turn_black_or_white_are_refused(values, expected):
    grey = Preprocessing(image_size=2, mean=(0.5,), std=(0.5,))
    image = Image.fromarray(values.repeat(2, 0))
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            to_pixels(image, grey)
    else:
        assert to_pixels(image, grey)[0, 0].tolist() == expected


def test_unreadable_images_are_named_and_counted(tmp_path, teacher):
    fill(tmp_path)
    (tmp_path / "cat" / "broken.jpg").write_bytes(b"not an image")
    with pytest.raises(UserError, match=r"1 of 31 images cannot be read: .*broken\.jpg"):
        load_data(f"folder:{tmp_path}", teacher)


def test_a_broken_image_of_several_files_is_named_by_its_own(tmp_path, teacher):
    buffer = io.BytesIO()
    picture(0).save(buffer, "PNG")
    for number, content in enumerate([buffer.getvalue(), b"no image"]):
        cells = [{"bytes": buffer.getvalue(), "path": ""}, {"bytes": content, "path": ""}]
        parquet.write_table(pa.table({"image": cells, "label": [0, 1]}), tmp_path / f"train-{number}.parquet")
    with pytest.raises(UserError, match=r"1 of 4 images cannot be read: train-1\.parquet row 1"):
        load_data(f"parquet:{tmp_path}", teacher)


@pytest.fixture
def both_ways(tmp_path, teacher, monkeypatch):
    """The same folder kept in memory, and decoded at every use."""
    fill(tmp_path)
    kept = load_data(f"folder:{tmp_path}", teacher)
    monkeypatch.setattr("lana.data.images.MEMORY_BYTES", 0)
    monkeypatch.setattr("lana.data.images.DECODING_WORKERS", 2)
    return kept, load_data(f"folder:{tmp_path}", teacher)


def test_images_decoded_at_every_use_are_the_same(both_ways):
    kept, decoded = both_ways
    assert (kept.train.workers, decoded.train.workers) == (0, 2)
    for read in (
        lambda split: split.batches(4),
        lambda split: split.epoch(4, seed=1, augment=True),
        lambda split: split.subset(9).epoch(2, seed=2, share=(1, 2)),
    ):
        for ours, theirs in zip(read(kept.train), read(decoded.train), strict=True):
            assert all(map(torch.equal, ours, theirs))


def test_decoding_draws_no_random_number_of_the_training(both_ways):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    assert len(list(both_ways[1].train.batches(4))) == 6
    assert torch.rand(1) == expected


def test_images_in_memory_and_single_batches_start_no_process(both_ways, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("A worker process was started.")

    monkeypatch.setattr("lana.data.split.DataLoader", refuse)
    kept, decoded = both_ways
    assert len(list(kept.train.batches(4))) == 6
    assert len(next(decoded.train.batches(64))[0]) == 21


def test_images_to_decode_can_be_sent_to_another_process(both_ways):
    split = both_ways[1].train
    again = pickle.loads(pickle.dumps(split.read))
    for ours, theirs in zip(split.read(split.indices), again(split.indices), strict=True):
        assert torch.equal(ours, theirs)


def test_a_broken_image_met_by_a_worker_is_named(both_ways, tmp_path):
    (tmp_path / "dog" / "3.png").write_bytes(b"no image")
    data = both_ways[1]
    part = next(part for part in (data.train, data.validation, data.test) if 13 in part.indices)
    with pytest.raises(UserError, match=r"^1 of \d images cannot be read: .*3\.png .*a run that has begun is another"):
        list(part.batches(2))


def test_a_picture_that_holds_postscript_starts_no_interpreter(tmp_path, teacher, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("Ghostscript was started.")

    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", refuse)
    fill(tmp_path)
    picture(0).save(tmp_path / "cat" / "0.eps")
    (tmp_path / "cat" / "0.eps").rename(tmp_path / "cat" / "0.png")
    with pytest.raises(UserError, match=r"1 of 30 images cannot be read: .*0\.png \(UnidentifiedImageError"):
        load_data(f"folder:{tmp_path}", teacher)
