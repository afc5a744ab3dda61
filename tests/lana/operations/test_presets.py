"""What the names of a pool stand for, and operations of the user's own."""

import dataclasses

import pytest
import torch
from kinds_of_layer import layer_of

from lana.errors import UserError
from lana.operations.families import FAMILIES, name_of, parse_operation
from lana.operations.presets import PRESETS, offered, pool_counts, pool_names, reasons


def test_the_papers_pool_is_as_large_as_the_papers():
    layer, module = layer_of("same")
    assert len(offered(layer, module, "lana")) - len(pool_names("skip")) >= 197


def test_presets_hold_their_families():
    assert pool_counts("skip") == {"teacher": 1, "identity": 1}
    derived = {name for name, family in FAMILIES.items() if family.derived}
    assert set(pool_counts("teacher-derived")) == derived
    assert set(pool_counts("lana")) & derived == {"teacher", "identity"}
    every = PRESETS["all"]()
    assert len(every) == len(set(every))
    assert set(pool_names("default")) <= set(pool_names("all"))
    assert set(PRESETS) == {"skip", "default", "teacher-derived", "lana", "all"}


def test_presets_offer_spans_little_from_nothing():
    def from_nothing(pool, at_span):
        return {
            name for name in pool_names(pool, at_span=at_span) if not FAMILIES[parse_operation(name).family].derived
        }

    assert from_nothing("lana", at_span=True) == from_nothing("default", at_span=False)
    assert from_nothing("lana,cb_stack_k7_w4", at_span=True) - from_nothing("lana", at_span=True) == {"cb_stack_k7_w4"}
    derived = pool_names("teacher-derived")
    assert pool_names("teacher-derived", at_span=True) == derived
    assert "merged_w0.25" in derived


def test_names_are_read_back():
    for name in pool_names("all"):
        operation = parse_operation(name)
        assert name_of(operation.family, dict(operation.parameters)) == name
        assert all(value in FAMILIES[operation.family].grid[key] for key, value in operation.parameters)


def test_families_and_operations_can_be_left_out_of_a_pool():
    whole = pool_names("default")
    without = pool_names("default,-efn,-pruned_w0.5,-identity")
    assert set(whole) - set(without) == {n for n in whole if n.startswith("efn_")} | {"pruned_w0.5", "identity"}


def test_a_family_names_its_operations():
    assert pool_names("merged,no_se") == ["teacher", "identity", "merged_w0.25", "merged_w0.5", "merged_w1", "no_se"]
    usual = [name for name in pool_names("default") if "cb_res" in name]
    assert pool_names("cb_res", at_span=True) == ["teacher", "identity", *usual]


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        ("defualt", "Did you mean: default"),
        ("prunned", "Did you mean: pruned"),
        ("cb_stack_k3", "neither a preset"),
        ("none.py", r"none\.py"),
        ("default,-prunned", "Did you mean: pruned"),
        ("default,-teacher", "neither a preset"),
    ],
)
def test_unknown_pools_are_refused(pool, message):
    with pytest.raises(UserError, match=message):
        pool_names(pool)


OWN = """
from torch import nn
from lana.operations.user import operation

@operation
def blur(layer, module):
    if layer.layout != "nchw" or layer.input_shape != layer.output_shape:
        return None
    channels = layer.output_shape[0]
    return nn.Conv2d(channels, channels, 5, padding={padding}, groups=channels)
"""


def test_a_user_operation_is_offered_where_it_fits(tmp_path):
    (tmp_path / "ops.py").write_text(OWN.format(padding=2))
    pool = f"skip,{tmp_path}/ops.py"
    layer, module = layer_of("same")
    (own,) = [o for o in offered(layer, module, pool) if o.name.endswith("blur")]
    assert own.build(layer, module)(torch.randn(1, *layer.input_shape)).shape[1:] == layer.output_shape
    elsewhere, other = layer_of("stride")
    assert not [o for o in offered(elsewhere, other, pool) if o.name.endswith("blur")]


def test_a_user_operation_of_another_shape_is_refused(tmp_path):
    (tmp_path / "bad.py").write_text(OWN.format(padding=0))
    layer, module = layer_of("same")
    (own,) = [o for o in offered(layer, module, f"{tmp_path}/bad.py") if o.name.endswith("blur")]
    with pytest.raises(UserError, match=r"'blur' turns \(16, 12, 12\) into \(16, 8, 8\)"):
        own.build(layer, module)


def test_user_operations_are_checked_before_anything_else(tmp_path, monkeypatch):
    import lana
    from lana.config.recipe import Recipe

    monkeypatch.setattr("lana.pipeline.measure_baseline", lambda context: pytest.fail("the teacher was measured first"))
    (tmp_path / "bad.py").write_text(OWN.format(padding=1))
    recipe = Recipe(model="digits-resnet", data="digits", budget="0.5x", pool=f"skip,{tmp_path}/bad.py")
    with pytest.raises(UserError, match=r"'blur' turns .* Return None where it does not fit"):
        lana.compress(recipe, out=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run" / "recipe.yaml").exists()


STEALING = """
from lana.operations.user import operation

@operation
def stolen(layer, module):
    module.body[0].weight.data.zero_()
    return module
"""


def test_a_user_builder_gets_a_copy(tmp_path):
    (tmp_path / "steal.py").write_text(STEALING)
    layer, module = layer_of("same")
    (own,) = [o for o in offered(layer, module, f"{tmp_path}/steal.py") if o.name.endswith("stolen")]
    built = own.build(layer, module)
    assert float(module.body[0].weight.detach().abs().sum()) > 0
    assert not {id(p) for p in built.parameters()} & {id(p) for p in module.parameters()}


def test_a_file_without_operations_is_refused(tmp_path):
    (tmp_path / "empty.py").write_text("x = 1\n")
    with pytest.raises(UserError, match="no function marked with @operation"):
        pool_names(f"{tmp_path}/empty.py")


@pytest.mark.parametrize("pool", ["linear_k1@int8", "default,pruned_w0.5@int8", "default,-linear_k1@int8"])
def test_an_unknown_precision_is_refused(pool):
    with pytest.raises(UserError, match=r"Name it without, and give --precisions fp32,int8\."):
        pool_names(pool)


def test_fp32_adds_nothing_to_a_name():
    assert pool_names("linear_k1@fp32") == ["teacher", "identity", "linear_k1"]
    assert parse_operation("linear_k1@fp32") == parse_operation("linear_k1")


def test_an_at_sign_in_a_path_is_no_precision(tmp_path):
    (tmp_path / "me@home").mkdir()
    file = tmp_path / "me@home" / "ops.py"
    file.write_text(OWN.format(padding=2))
    (name,) = [name for name in pool_names(str(file)) if name.startswith("user:")]
    assert parse_operation(name).precision == "fp32"


def test_an_operation_that_is_not_offered_has_a_reason():
    layer, module = layer_of("stride")
    found = {operation.name: reason for operation, reason in reasons(layer, module, "default").items()}
    assert found["teacher"] == found["pruned_w0.5"] == ""
    assert found["identity"] == "its output has another shape than its input"
    assert found["no_se"] == "it has no squeeze-excite gate"
    layer, module = layer_of("odd size")
    found = {operation.name: reason for operation, reason in reasons(layer, module, "default").items()}
    assert found["halved_w1"].startswith("it does not run at half the resolution: RuntimeError: The size of tensor")


def test_a_predicate_that_fails_is_a_reason(monkeypatch):
    def fail(layer, module):
        raise KeyError("nobody foresaw this")

    monkeypatch.setitem(FAMILIES, "no_se", dataclasses.replace(FAMILIES["no_se"], why_not=fail))
    layer, module = layer_of("gated")
    (reason,) = [reason for operation, reason in reasons(layer, module, "no_se").items() if operation.name == "no_se"]
    assert reason == "the test whether it applies failed: KeyError: 'nobody foresaw this'"
    assert "no_se" not in [operation.name for operation in offered(layer, module, "no_se")]


@pytest.mark.parametrize("name", ["pruned_w9", "pruned_w0", "pruned_w0.5.5", "linear_k0", "linear_k1.5", "linear_k99"])
def test_a_parameter_out_of_reach_is_refused(name):
    with pytest.raises(UserError, match=r"has [kw] .*: expected a number like"):
        parse_operation(name)
