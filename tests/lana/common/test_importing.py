"""A user's code can raise anything, also what would end the program without a word."""

import pytest
from click.testing import CliRunner

from lana.cli import main
from lana.common.importing import (
    EndedProgram,
    barred,
    explain_function,
    fenced,
    function_from_file,
    import_file,
    trust_code,
)
from lana.errors import UserError

ENDS = ["import sys; sys.exit(0)", "raise SystemExit", "raise type('Own', (BaseException,), {})('an end')"]


@pytest.mark.parametrize("line", ENDS)
def test_a_file_that_ends_the_program_fails_to_import(tmp_path, line):
    (tmp_path / "net.py").write_text(line)
    with pytest.raises(UserError, match=r"net\.py fails to import: EndedProgram: it would end lana by"):
        import_file(str(tmp_path / "net.py"), what="a model")


@pytest.mark.parametrize("line", ENDS)
def test_a_function_that_ends_the_program_is_named_with_its_line(tmp_path, line):
    (tmp_path / "data.py").write_text(f"def read():\n    {line}\n")
    function = function_from_file(str(tmp_path / "data.py"), "read", what="data")
    named = r"data\.py:read failed: EndedProgram: .*data\.py, line 2"
    with pytest.raises(UserError, match=named), explain_function("data.py:read"):
        function()


def test_an_interruption_passes_the_fence():
    with pytest.raises(KeyboardInterrupt), fenced():
        raise KeyboardInterrupt
    with pytest.raises(ValueError, match="as it was"), fenced():
        raise ValueError("as it was")
    with pytest.raises(EndedProgram), fenced():
        raise SystemExit(0)


NETWORK = """
import sys
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(self, x):
        {forward}
        return self.a(x)

def build():
    {build}
    return Net()
"""


@pytest.mark.parametrize("part", ["forward", "build"])
def test_a_network_that_calls_sys_exit_is_a_mistake_with_a_message(tmp_path, part):
    (tmp_path / "net.py").write_text(NETWORK.format(**{"forward": "", "build": "", part: "sys.exit(0)"}))
    result = CliRunner().invoke(main, ["layers", f"{tmp_path}/net.py:build", "--input-shape", "4"])
    assert result.exit_code == 2
    assert "it would end lana by SystemExit(0)" in result.output


def test_code_that_ends_the_command_deep_inside_is_a_mistake_too(monkeypatch):
    def end(*_, **__):
        raise SystemExit(0)

    monkeypatch.setattr("lana.pipeline.compress", end)
    result = CliRunner().invoke(main, ["compress", "digits-resnet", "--data", "digits", "--budget", "0.5x"])
    assert result.exit_code == 2
    assert "Code of yours failed: it would end lana by SystemExit(0) in " in result.output


def test_code_within_a_barred_folder_is_asked_for(tmp_path):
    (tmp_path / "run" / "code").mkdir(parents=True)
    for file in (tmp_path / "run" / "code" / "net.py", tmp_path / "own.py"):
        file.write_text("def build():\n    return 3\n")
    (tmp_path / "link.py").symlink_to(tmp_path / "run" / "code" / "net.py")
    with barred(tmp_path / "run"):
        assert function_from_file(str(tmp_path / "own.py"), "build", what="a model")() == 3
        for within in ("run/code/net.py", "link.py"):
            with pytest.raises(UserError, match=r"net\.py lies within .*run and would run as a program.*give --trust"):
                function_from_file(str(tmp_path / within), "build", what="a model")
        with trust_code():
            assert function_from_file(str(tmp_path / "run/code/net.py"), "build", what="a model")() == 3
    assert function_from_file(str(tmp_path / "run/code/net.py"), "build", what="a model")() == 3


def test_an_error_of_a_users_code_deep_inside_names_its_line(tmp_path, monkeypatch):
    (tmp_path / "net.py").write_text("def forward():\n    return int('x')\n")
    forward = import_file(str(tmp_path / "net.py"), what="a model").forward
    monkeypatch.setattr("lana.pipeline.compress", lambda *_, **__: forward())
    result = CliRunner().invoke(main, ["compress", "digits-resnet", "--data", "digits", "--budget", "0.5x"])
    assert result.exit_code == 2
    assert "code of yours failed: ValueError: invalid literal" in result.output
    assert "net.py, line 2" in result.output
