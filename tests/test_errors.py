"""What errors say, in one line."""

import re

import pytest
from conftest import ROOT

from dsg.files import first_line


@pytest.mark.parametrize(
    "error, line", [(OSError(), "OSError"), (ValueError("\n"), "ValueError"), (ValueError("a\nb"), "a")]
)
def test_an_error_always_says_something(error, line):
    assert first_line(error) == line


def test_there_is_one_way_to_shorten_an_error():
    files = [
        ROOT / "run.py",
        *(file for folder in ("dsg", "tasks", "scripts") for file in (ROOT / folder).rglob("*.py")),
    ]
    own = re.compile(r"str\((error|cause)\)\S*\.split")
    found = [file for file in files if file.name != "files.py" and own.search(file.read_text(encoding="utf-8"))]
    assert found == []
