import logging
import os

import pytest
from pictures import fill, picture, picture_teacher

from lana.data.loading import load_data
from lana.errors import UserError


@pytest.fixture
def teacher():
    return picture_teacher()


def _images(root, teacher):
    data = load_data(f"folder:{root}", teacher)
    return sum(map(len, (data.train, data.validation, data.test)))


@pytest.mark.parametrize("suffix", [".jfif", ".jp2", ".pgm", ".avif", ".tga", ".JPG", ".pcx", ""])
def test_what_pillow_decodes_is_read(tmp_path, teacher, caplog, suffix):
    fill(tmp_path)
    for number in range(10):
        picture(number).save(tmp_path / "cat" / f"more{number}{suffix}", "PNG" if not suffix else None)
    assert _images(tmp_path, teacher) == 40
    assert not caplog.records


def test_what_is_left_out_is_counted_and_named(tmp_path, teacher, caplog):
    fill(tmp_path)
    (tmp_path / "cat" / ".DS_Store").write_bytes(b"\0" * 9)
    (tmp_path / "cat" / "a.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (tmp_path / "dog" / "b.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (tmp_path / "dog" / "notes").write_text("of dogs")
    os.mkfifo(tmp_path / "dog" / "pipe.png")
    (tmp_path / "dog" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "dog" / "linked").symlink_to(tmp_path / "cat")
    picture(0).save(tmp_path / "beside.png")
    with caplog.at_level(logging.INFO):
        assert _images(tmp_path, teacher) == 30
    (record,) = (one for one in caplog.records if one.levelno == logging.WARNING)
    assert "30 images" in record.message
    assert "7 files left out (3 .png, 2 .heic, 2 without a suffix): cat/a.heic, dog/b.heic, dog/gone.png …" in (
        record.message
    )


def test_a_folder_of_other_files_alone_is_refused_with_their_kinds(tmp_path, teacher):
    (tmp_path / "cat").mkdir()
    for number in range(3):
        (tmp_path / "cat" / f"{number}.heic").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(UserError, match=r"holds no images that Pillow reads \(3 \.heic are none\)"):
        load_data(f"folder:{tmp_path}", teacher)


def test_a_class_without_images_and_a_part_that_is_not_read_are_told(tmp_path, teacher, caplog):
    for part in ("train", "test", "val"):
        fill(tmp_path / part)
    (tmp_path / "train" / "fox").mkdir()
    (tmp_path / "test" / "fox").mkdir()
    with caplog.at_level(logging.INFO):
        load_data(f"folder:{tmp_path}", teacher)
    told = " ".join(record.message for record in caplog.records)
    assert "test is the test part; val is not read" in told
    assert "train holds no images of fox" in told


@pytest.mark.parametrize("kind", ["npz", "parquet"])
def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path, teacher, kind):
    os.mkfifo(tmp_path / f"train.{kind}")
    for place in (tmp_path / f"train.{kind}", tmp_path):
        with pytest.raises(UserError):
            load_data(f"{kind}:{place}", teacher)
