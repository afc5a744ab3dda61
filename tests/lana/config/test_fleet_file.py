import pytest

from lana.config.fleet_file import read_fleet
from lana.errors import UserError

BOARD = "{name: board, at: ssh:pi@board, threads: 4, budget: 30ms}"
GOOD = f"run: mine\nbudget: 0.5x\ndevices:\n  - name: desk\n  - {BOARD}\n"


@pytest.fixture
def file(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "recipe.yaml").touch()
    return tmp_path / "fleet.yaml"


def test_devices_share_a_budget_unless_they_have_their_own(file):
    file.write_text(GOOD)
    fleet = read_fleet(file)
    assert fleet.run == file.parent / "mine"
    assert [(d.name, d.at, d.threads, d.budget) for d in fleet.devices] == [
        ("desk", "here", 1, "0.5x"),
        ("board", "ssh:pi@board", 4, "30ms"),
    ]
    assert fleet.devices[1].settings(batch=2).to_json()["batch"] == 2


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("name: board", "name: desk"), "several called .'desk', 'desk'."),
        (("threads", "treads"), "no option 'treads'.*threads"),
        (("threads: 4", "threads: 0"), "--threads 0: expected at least 1"),
        (("ssh:pi@board", "telnet:board"), "expected here, ssh:HOST or ray"),
        (("ssh:pi@board", "'ssh:-oProxyCommand=x'"), "expected here, ssh:HOST or ray"),
        (("30ms", "soon"), "budget 'soon'"),
        (("budget: 0.5x", "run2: x"), "no option 'run2'"),
        (("run: mine", "run: yours"), "is not a run"),
        ((GOOD, "- x"), "needs 'run: RUN'"),
        ((GOOD, "a: [1"), "is not valid YAML"),
    ],
)
def test_mistakes_are_named(file, change, expected):
    file.write_text(GOOD.replace(*change))
    with pytest.raises(UserError, match=expected):
        read_fleet(file)


def test_a_file_that_is_missing(tmp_path):
    with pytest.raises(UserError, match="Cannot read the fleet"):
        read_fleet(tmp_path / "none.yaml")
