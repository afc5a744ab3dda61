"""Names are printed as they are, and messages have a bounded length."""

import pytest
from click.testing import CliRunner
from made_summary import make_summary
from rich.table import Table

from lana.cli import main
from lana.common.console import bounded, make_console

NAMES = ["[/b]", "x[red]y", "[link=a]b", ":smile:", "a[0]", "\\[x]"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_no_markup(capsys, name):
    table = Table(name, title=name)
    table.add_row(name)
    make_console().print(table, name)
    assert capsys.readouterr().out.count(name) == 4


@pytest.mark.parametrize("name", NAMES)
def test_a_student_s_name_is_no_markup(capsys, name):
    make_summary(student=name).show()
    assert name in capsys.readouterr().out


def test_a_command_s_message_is_bounded():
    result = CliRunner().invoke(main, ["compress", "m" * 100_000, "--data", "digits", "--budget", "0.5x"])
    assert result.exit_code == 2
    assert len(result.output) < 3200
    assert bounded("m" * 100_000).count("…") == 1
