"""Wrong inputs of every kind end in one message, as `wrong_inputs` tells in more words."""

import pytest
from workplace import make_workplace
from wrong_inputs import counted_faults


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_wrong_inputs_end_in_one_message(tmp_path, capsys):
    found = counted_faults(make_workplace(tmp_path), count=2000, seed=0)
    assert found.total() >= 1900
    assert {key: number for key, number in found.items() if key[1]} == {}, capsys.readouterr().out[-3000:]
