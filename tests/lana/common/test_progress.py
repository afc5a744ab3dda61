import logging

import pytest

from lana.common.progress import Progress, reporting, shown, silence

LOGGER = logging.getLogger("lana.somewhere")


def printed(capsys):
    LOGGER.info("a message")
    with Progress("Working") as progress:
        progress.update(1)
    return capsys.readouterr().err


def test_messages_and_progress_are_shown_once_inside_reporting(capsys):
    with reporting(), reporting():
        assert printed(capsys) == "a message\nWorking: done in 0 s\n"


def test_nothing_is_shown_outside_of_reporting(capsys):
    assert printed(capsys) == ""
    with reporting():
        pass
    assert printed(capsys) == ""


@pytest.mark.parametrize("quiet", [(True, False), (False, True)])
def test_quiet_outside_or_inside_shows_nothing(capsys, quiet):
    with reporting(quiet=quiet[0]), reporting(quiet=quiet[1]):
        assert printed(capsys) == ""


def test_silence_lasts_as_long_as_the_open_reporting(capsys):
    with reporting():
        silence()
        with reporting():
            assert printed(capsys) == ""
    with reporting():
        assert shown()


def test_quiet_calls_still_give_records_to_the_handlers_of_others(caplog):
    with caplog.at_level(logging.INFO, logger="lana"), reporting(quiet=True):
        LOGGER.info("a message")
    assert caplog.messages == ["a message"]


def test_the_level_of_the_logger_is_put_back():
    before = logging.getLogger("lana").level
    with pytest.raises(KeyboardInterrupt), reporting():
        raise KeyboardInterrupt
    assert logging.getLogger("lana").level == before
