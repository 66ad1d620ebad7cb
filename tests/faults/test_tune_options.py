"""Options of scripts/tune.py that cannot be used are one line, with --dry too."""

import pytest
from conftest import script


@pytest.mark.parametrize(
    "options, words",
    [
        (["--steps", "1"], "sampler.steps=1 is out of range: an integer, at least 2"),
        (["--samplers", "foo"], "sampler=foo is unknown: one of "),
        (["--samplers", "unconditional", "--steps", "20"], "sampler=unconditional has nothing to tune"),
    ],
)
def test_what_cannot_be_tuned_is_one_line(options, words):
    done = script("scripts/tune.py", "--tasks", "inpaint", "--dry", *options)
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr
