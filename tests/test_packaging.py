"""The two ways to install say the same thing, and every file named in a message exists."""

import re
from importlib.metadata import version

import yaml
from conftest import ROOT

PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_conda_installs_what_make_setup_does():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = [d["pip"] for d in environment["dependencies"] if isinstance(d, dict)]
    install = re.search(r"pip install --quiet (.*)", (ROOT / "Makefile").read_text()).group(1).replace('"', "")
    assert " ".join(pip) == install
    assert "python=3.11" in environment["dependencies"]


def test_every_requirement_is_pinned_and_installed_so():
    project = (ROOT / "pyproject.toml").read_text()
    lists = re.findall(r"^(?:dependencies|dev|data|fid|report|semantic|slurm) = \[(.*?)\]", project, re.M | re.S)
    required = {normal(re.match(r"[\w.-]+", r).group()) for text in lists for r in re.findall(r'"([^"]+)"', text)}
    pins = {normal(k): v for k, v in PINS.items()}
    assert len(required) > 10 and required <= set(pins)
    assert all(version(name).split("+")[0] == pins[name] for name in required)


def test_no_index_is_written_down():
    for name in ("constraints.txt", "Makefile", "environment.yml", "pyproject.toml", ".ci/run"):
        assert not re.search(r"index-url|file:///|https?://(?!arxiv|github)", (ROOT / name).read_text()), name
