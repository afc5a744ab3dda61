import io

import numpy as np
import pyarrow as pa
import pytest
import torch
from pictures import fill, picture, picture_teacher
from pyarrow import parquet

from lana.data.loading import load_data
from lana.errors import UserError


@pytest.fixture
def teacher():
    return picture_teacher()


def test_a_folder_is_split_by_class_and_normalised(tmp_path, teacher):
    fill(tmp_path)
    data = load_data(f"folder:{tmp_path}", teacher)
    assert data.classes == ("cat", "dog", "eel")
    assert [len(split) for split in (data.train, data.validation, data.test)] == [21, 3, 6]
    assert np.bincount(data.test.labels).tolist() == [2, 2, 2]
    inputs, labels = next(data.test.batches(6))
    assert inputs.shape == (6, 3, 8, 8)
    level = (60 * labels[0] + inputs[0].new_tensor(range(10))) / 255
    assert torch.isclose(inputs[0, 0, 0, 0], (level - 0.5) / 0.25, atol=1e-3).any()


def test_no_example_is_in_two_splits(tmp_path, teacher):
    fill(tmp_path)
    data = load_data(f"folder:{tmp_path}", teacher)
    indices = np.concatenate([data.train.indices, data.validation.indices, data.test.indices])
    assert sorted(indices) == list(range(30))


def test_train_and_test_folders(tmp_path, teacher):
    fill(tmp_path / "train")
    fill(tmp_path / "test", count=2)
    data = load_data(f"folder:{tmp_path}", teacher)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [27, 3, 6]


@pytest.mark.parametrize("name", [None, "valid", "validation"])
def test_a_train_folder_alone_or_with_a_part_of_another_name(tmp_path, teacher, name):
    fill(tmp_path / "train")
    if name:
        fill(tmp_path / name, count=2)
    data = load_data(f"folder:{tmp_path}", teacher)
    assert data.classes == ("cat", "dog", "eel")
    assert [len(split) for split in (data.train, data.validation, data.test)] == ([27, 3, 6] if name else [21, 3, 6])


def test_a_test_part_without_labels_gives_way_to_one_with(tmp_path, teacher):
    """As ImageNet comes: test images in one folder, those of val in a folder a class."""
    fill(tmp_path / "train")
    (tmp_path / "test" / "0").parent.mkdir()
    picture(0).save(tmp_path / "test" / "0.png")
    fill(tmp_path / "val", count=2)
    data = load_data(f"folder:{tmp_path}", teacher)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [27, 3, 6]


@pytest.mark.parametrize(("test_labels", "expected"), [([-1, -1, -1], 2), ([2, 1, 0], 3)])
def test_labels_that_are_withheld_are_none(tmp_path, teacher, test_labels, expected, caplog):
    caplog.set_level("INFO")
    buffer = io.BytesIO()
    picture(0).save(buffer, "PNG")
    cell = {"bytes": buffer.getvalue(), "path": ""}
    for name, labels in {"train": [0, 1, 2] * 10, "test": test_labels, "validation": [0, 1]}.items():
        parquet.write_table(pa.table({"image": [cell] * len(labels), "label": labels}), tmp_path / f"{name}-0.parquet")
    assert len(load_data(f"parquet:{tmp_path}", teacher).test) == expected
    told = "val is the test part; test" if expected == 2 else "test is the test part; val"
    assert f"{told} is not read" in caplog.text


@pytest.mark.parametrize("labels", [["a", "b"], [0, None], [0.5, 1.5]])
def test_labels_of_parquet_that_are_no_classes_are_refused(tmp_path, teacher, labels):
    picture(1).save(tmp_path / "one.png")
    rows = [{"bytes": (tmp_path / "one.png").read_bytes(), "path": None}] * 2
    parquet.write_table(pa.table({"image": rows, "label": labels}), tmp_path / "train.parquet")
    with pytest.raises(UserError, match=r"'label' holds .* Expected the numbers of classes"):
        load_data(f"parquet:{tmp_path}", teacher)


IMAGES, NUMBERS = np.zeros((30, 8, 8, 3), np.uint8), np.arange(30) % 3


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (IMAGES.transpose(0, 3, 1, 2), NUMBERS),
        (np.zeros((30, 8, 8, 4), np.uint8), NUMBERS),
        (IMAGES[..., :1], NUMBERS[:, None]),
        (IMAGES[..., 0], NUMBERS.astype(np.int32)),
        (IMAGES, NUMBERS.astype(np.uint8)),
    ],
)
def test_arrays_as_others_store_them(tmp_path, teacher, images, labels):
    np.savez(tmp_path / "a.npz", x_train=images, y_train=labels)
    inputs, targets = next(load_data(f"npz:{tmp_path}/a.npz", teacher).test.batches(2))
    assert inputs.shape == (2, 3, 8, 8)
    assert (targets.dtype, targets.shape) == (torch.int64, (2,))


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"x_train": IMAGES, "y_train": NUMBERS[:9]}, "30 inputs and 9 labels"),
        ({"x_train": IMAGES[:0], "y_train": NUMBERS[:0]}, "0 inputs and 0 labels"),
        ({"x_train": IMAGES, "y_train": NUMBERS, "x_test": IMAGES}, "expected x_train and y_train"),
        ({"x_train": IMAGES.astype(np.int64), "y_train": NUMBERS}, "inputs of type int64. Expected uint8 images"),
        ({"x_train": IMAGES[..., :2], "y_train": NUMBERS}, r"of shape \(30, 8, 8, 2\). Expected images"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, teacher, arrays, expected):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError, match=expected):
        load_data(f"npz:{tmp_path}/a.npz", teacher)


def test_parquet_as_the_hub_stores_it(tmp_path, teacher):
    for name, count in (("train", 30), ("test", 6)):
        rows = []
        for number in range(count):
            picture(number).save(tmp_path / "one.png")
            rows.append({"bytes": (tmp_path / "one.png").read_bytes(), "path": None})
        table = pa.table({"image": rows, "label": [number % 3 for number in range(count)]})
        parquet.write_table(table, tmp_path / f"{name}.parquet")
    data = load_data(f"parquet:{tmp_path}", teacher)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [27, 3, 6]


def test_arrays_of_images_and_of_ready_inputs(tmp_path, teacher):
    images = np.zeros((30, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "images.npz", x_train=images, y_train=np.arange(30) % 3)
    assert next(load_data(f"npz:{tmp_path}/images.npz", teacher).test.batches(2))[0].unique().tolist() == [-2.0]
    np.savez(tmp_path / "ready.npz", x_train=np.ones((30, 3, 8, 8)), y_train=np.arange(30) % 3)
    assert next(load_data(f"npz:{tmp_path}/ready.npz", teacher).test.batches(2))[0].unique().tolist() == [1.0]


def test_a_function_of_a_file(tmp_path, teacher):
    (tmp_path / "mine.py").write_text(
        "import torch\ndef both():\n"
        "    part = [(torch.ones(3, 8, 8), torch.tensor(n % 3, dtype=torch.int32)) for n in range(20)]\n"
        "    return part, part[:5]\n"
    )
    data = load_data(f"{tmp_path}/mine.py:both", teacher)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [18, 2, 5]
    assert next(data.train.batches(2))[1].dtype == torch.int64


@pytest.mark.parametrize("kind", ["uint8", "float64"])
def test_a_function_gives_floats(tmp_path, teacher, kind):
    (tmp_path / "mine.py").write_text(
        f"import numpy\ndef train():\n    return [(numpy.ones((3, 8, 8), numpy.{kind}), n % 3) for n in range(20)]\n"
    )
    if kind == "float64":  # what numpy computes in; networks do not
        assert next(load_data(f"{tmp_path}/mine.py:train", teacher).train.batches(2))[0].dtype == torch.float32
    else:
        with pytest.raises(UserError, match=r"mine.py:train gives inputs of type uint8\. Expected floats"):
            load_data(f"{tmp_path}/mine.py:train", teacher)


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("digit", "Unknown data 'digit'.*Did you mean: digits"),
        ("folder:{tmp}/none", "there is no folder"),
        ("folder:{tmp}", "holds no images"),
        ("parquet:{tmp}", "expected a parquet file"),
        ("npz:{tmp}/none.npz", "cannot be read"),
        ("{tmp}/none.py:data", "there is no file"),
    ],
)
def test_bad_references_are_refused(tmp_path, teacher, reference, expected):
    with pytest.raises(UserError, match=expected):
        load_data(reference.format(tmp=tmp_path), teacher)


def test_examples_of_another_shape_are_refused(tmp_path, teacher):
    np.savez(tmp_path / "ready.npz", x_train=np.ones((30, 1, 8, 8)), y_train=np.arange(30) % 3)
    with pytest.raises(UserError, match=r"shape \(1, 8, 8\), the model takes \(3, 8, 8\)"):
        load_data(f"npz:{tmp_path}/ready.npz", teacher)


def test_the_test_part_is_the_same_whatever_a_run_draws(tmp_path, teacher):
    fill(tmp_path)
    one, other = (load_data(f"folder:{tmp_path}", teacher, seed=seed) for seed in (0, 1))
    assert one.test.indices.tolist() == other.test.indices.tolist()
    assert one.validation.indices.tolist() != other.validation.indices.tolist()


def test_labels_that_are_names_are_told(tmp_path, teacher):
    np.savez(tmp_path / "names.npz", x_train=np.zeros((9, 8, 8, 3), np.uint8), y_train=np.array(["cat"] * 9))
    with pytest.raises(UserError, match=r"labels of type <U3\. Expected the numbers of classes"):
        load_data(f"npz:{tmp_path / 'names.npz'}", teacher)


def test_few_examples_of_each_of_many_classes_are_divided_too(tmp_path, teacher):
    labels = np.repeat(np.arange(100), 2)
    np.savez(tmp_path / "few.npz", x_train=np.zeros((200, 8, 8, 3), np.uint8), y_train=labels)
    data = load_data(f"npz:{tmp_path / 'few.npz'}", teacher)
    assert (len(data.test), len(data.validation)) == (40, 16)


@pytest.mark.parametrize(
    ("example", "expected"),
    [
        ("{'image': 0, 'label': 1}", "gives an example as dict"),
        ("(torch.zeros(3, 8, 8), 'cat')", "gives an example as tuple of Tensor, str"),
        ("torch.tensor(1.0)", "gives an example as Tensor"),
        ("None", "gives an example as NoneType"),
        ("1 / 0", "failed: ZeroDivisionError"),
    ],
)
def test_examples_that_are_no_pairs_of_numbers_are_refused(tmp_path, teacher, example, expected):
    (tmp_path / "data.py").write_text(
        "import torch\n"
        "class Examples:\n"
        "    def __len__(self):\n        return 5\n"
        f"    def __getitem__(self, index):\n        return {example}\n"
        "def load():\n    return Examples()\n"
    )
    with pytest.raises(UserError, match=expected):
        load_data(f"{tmp_path}/data.py:load", teacher)


def test_numbers_in_another_order_of_bytes_are_read(tmp_path, teacher):
    inputs = np.random.default_rng(0).normal(size=(20, 3, 8, 8))
    np.savez(tmp_path / "a.npz", x_train=inputs.astype(">f4"), y_train=np.arange(20).astype(">i8") % 3)
    one, label = load_data(f"npz:{tmp_path}/a.npz", teacher).train.read(np.array([4]))
    assert torch.allclose(one[0], torch.tensor(inputs[4], dtype=torch.float32))
    assert label.tolist() == [1]


def test_a_function_of_data_that_fails_is_told(tmp_path, teacher):
    (tmp_path / "mine.py").write_text("def fails(n):\n    return n\n")
    with pytest.raises(UserError, match=r"mine\.py:fails failed: TypeError: .*missing 1 required"):
        load_data(f"{tmp_path}/mine.py:fails", teacher)


@pytest.mark.parametrize("method", ["__len__(self)", "__getitem__(self, index)"])
def test_a_dataset_that_ends_the_program_is_told(tmp_path, teacher, method):
    (tmp_path / "mine.py").write_text(
        f"class Own(list):\n    def {method}:\n        raise SystemExit(0)\ndef load():\n    return Own([(0.0, 1)])\n"
    )
    with pytest.raises(UserError, match=r"mine\.py:load failed: EndedProgram: it would end lana by SystemExit\(0\)"):
        load_data(f"{tmp_path}/mine.py:load", teacher)


@pytest.mark.parametrize(
    ("returned", "sizes"),
    [
        ("train, part(4), part(6)", [20, 4, 6]),
        ("train, None, part(6)", [18, 2, 6]),
        ("train, part(4), None", [16, 4, 4]),
        ("train, None", [14, 2, 4]),
    ],
)
def test_a_function_gives_a_validation_part_too(tmp_path, teacher, returned, sizes):
    (tmp_path / "mine.py").write_text(
        "import torch\ndef part(count):\n    return [(torch.ones(3, 8, 8), n % 3) for n in range(count)]\n"
        f"def load():\n    train = part(20)\n    return {returned}\n"
    )
    data = load_data(f"{tmp_path}/mine.py:load", teacher)
    assert [len(split) for split in (data.train, data.validation, data.test)] == sizes


@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        ("{'train': part}", "returned dict; expected train"),
        ("[]", "returned an empty list"),
        ("None, part", "returned NoneType"),
        ("[part, part]", r"gives an example as list.*\(train, validation, test\)"),
        ("part, part, part, part", r"gives an example as list.*\(train, validation, test\)"),
        ("torch.utils.data.DataLoader(part)", "returned DataLoader; expected train"),
    ],
)
def test_parts_in_another_form_are_refused(tmp_path, teacher, returned, expected):
    (tmp_path / "mine.py").write_text(
        "import torch\ndef load():\n    part = [(torch.ones(3, 8, 8), n % 3) for n in range(20)]\n"
        f"    return {returned}\n"
    )
    with pytest.raises(UserError, match=expected):
        load_data(f"{tmp_path}/mine.py:load", teacher)
