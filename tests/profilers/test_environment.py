"""What the system says of itself."""

from pathlib import Path

import pytest

from profilers import environment

PI = """\
processor\t: 0
BogoMIPS\t: 108.00
CPU implementer\t: 0x41
CPU part\t: 0xd08

processor\t: 1
BogoMIPS\t: 108.00
CPU implementer\t: 0x41
CPU part\t: 0xd08

Revision\t: c03111
Model\t\t: Raspberry Pi 4 Model B Rev 1.1
"""
XEON = """\
processor\t: 0
cpu family\t: 6
model\t\t: 167
model name\t: Intel Xeon
stepping\t: 1
"""


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (PI, "Raspberry Pi 4 Model B Rev 1.1 (implementer 0x41 part 0xd08), 4 logical processors"),
        (XEON, "Intel Xeon (family 6 model 167 stepping 1), 4 logical processors"),
    ],
)
def test_the_processor_as_linux_names_it(monkeypatch, content, name):
    monkeypatch.setattr(Path, "read_text", lambda path: content)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    assert environment.processor() == name
