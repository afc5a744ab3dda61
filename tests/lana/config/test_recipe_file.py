import pytest

from lana.config.recipe import OPTIONS, Recipe
from lana.errors import UserError


def test_yaml_holds_every_field_and_reads_back(tmp_path):
    recipe = Recipe(model="digits-resnet", data="digits", budget="0.4x", mean=(0.5,), std=(0.2,), epochs=3)
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.to_yaml())
    assert Recipe.from_yaml(path) == recipe
    for name, one in OPTIONS.items():
        assert f"# {one.help}\n{name}: " in path.read_text()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("modle: x", "Did you mean: model"),
        ("seed: 1\nepochs: 3\nseed: 2", "the option 'seed' is given twice"),
        ("seed: 1\nseed: 1", "the option 'seed' is given twice"),
        ("seed: .inf", "--seed inf: expected a whole number"),
        ("lr: .nan", "--lr nan: expected a number"),
        ("seed: 2020-99-99", "not valid YAML|expected a whole number"),
        ("- model", "holds list"),
        ("a: [", "not valid YAML"),
        ("threads: many", "--threads 'many': expected a whole number"),
        ("seed: 1.5", "--seed 1.5: expected a whole number"),
        ("threads: true", "--threads True: expected a whole number"),
        ("seed:", "--seed None: expected a whole number"),
        ("epochs: [1]", r"--epochs \[1\]: expected a number"),
        ("layers: [a, b]", r"--layers \['a', 'b'\]: expected text"),
        ('compile: "no"', "--compile 'no': expected true or false"),
        ("mean: [a]", r"--mean \['a'\]: expected numbers like 0.5,0.5,0.5"),
        ("input_shape: [3, 32.5]", "expected whole numbers like 3,32,32"),
    ],
)
def test_a_bad_recipe_file_is_refused(tmp_path, content, expected):
    path = tmp_path / "recipe.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=expected):
        Recipe.from_yaml(path)


@pytest.mark.parametrize(
    ("content", "field", "value"),
    [
        ("lr: 1e-3", "lr", 1e-3),  # YAML's numbers have a point, this is text
        ("distill_batch: 8.0", "distill_batch", 8),
        ("patience: null", "patience", None),
        ("mean: 0.5", "mean", (0.5,)),
        ("input_shape: [3, 32, 32]", "input_shape", (3, 32, 32)),
        ("input_shape: 3,32,32", "input_shape", (3, 32, 32)),
    ],
)
def test_a_value_is_read_as_its_field_s_type(tmp_path, content, field, value):
    path = tmp_path / "recipe.yaml"
    path.write_text(content)
    read = Recipe.from_yaml(path).options[field]
    assert (read, type(read)) == (value, type(value))


def test_a_missing_recipe_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="Cannot read the recipe"):
        Recipe.from_yaml(tmp_path / "none.yaml")


def test_paths_in_a_file_are_relative_to_it_and_those_on_top_are_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = Recipe(
        model="./net.py:mine",
        weights="weights/net.pt",
        data="folder:/data/images",
        task="tasks.py:Mine",
        pool="default, own.py,-linear",
    )
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "recipe.yaml").write_text(recipe.to_yaml("kept"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    read = Recipe.from_yaml("../kept/recipe.yaml", data="npz:mine.npz")
    teacher = read.teacher
    assert (teacher.model, teacher.weights, teacher.task) == ("../net.py:mine", "../weights/net.pt", "../tasks.py:Mine")
    assert (teacher.data, read.profiling.pool) == ("npz:mine.npz", "default,../own.py,-linear")
    assert Recipe.from_yaml("../kept/recipe.yaml").teacher.data == "folder:/data/images"


@pytest.mark.parametrize(
    ("model", "moved_model"),
    [("a:b/net.py:mine", "../a:b/net.py:mine"), ("timm:local-dir:saved", "timm:local-dir:../saved")],
)
def test_a_folder_in_a_models_name_is_relative_to_the_file(tmp_path, monkeypatch, model, moved_model):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "recipe.yaml").write_text(Recipe(model=model, data="digits").to_yaml("kept"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert Recipe.from_yaml("../kept/recipe.yaml").teacher.model == moved_model


def test_a_byte_order_mark_is_no_part_of_a_recipe(tmp_path):
    (tmp_path / "recipe.yaml").write_text("model: digits-resnet\n", encoding="utf-8-sig")
    assert Recipe.from_yaml(tmp_path / "recipe.yaml").teacher.model == "digits-resnet"
