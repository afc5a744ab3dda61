"""The same examples each time, so that a change is to blame for what fails; the slow tests look for new ones.

Two workers share the tests by file, so that a file's fixtures are made once; what times something all goes to one of
them, one after the other.
"""

import pytest
from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(scope="session", autouse=True)
def _own_home(tmp_path_factory):
    """Tables of whoever runs the tests decide nothing in them, and references made beside them are not kept."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LANA_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.hookimpl(tryfirst=True)  # before the plug-in that reads the groups
def pytest_collection_modifyitems(items):
    for item in items:
        group = "serial" if item.get_closest_marker("serial") else item.path.stem
        item.add_marker(pytest.mark.xdist_group(group))
