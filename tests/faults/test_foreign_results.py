"""A results folder of somebody else's is data: evaluate.py and report.py run nothing that its config.yaml names."""

import json
import runpy
import shutil

import pytest
import yaml
from conftest import ROOT

from dsg.runs.evaluation import add_metrics, finished_run
from dsg.runs.saved import read_saved
from dsg.suites.report.main import main as report

evaluate = runpy.run_path(str(ROOT / "scripts/evaluate.py"))["main"]


@pytest.fixture
def run(finished, tmp_path):
    """A finished run in a folder that is not ours."""
    return shutil.copytree(finished, tmp_path / "run")


def change(run, path, value):
    """Put `value` into its config at `path`."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    *above, last = path.split(".")
    at = config
    for key in above:
        at = at.setdefault(key, {})
    at[last] = value
    (run / "config.yaml").write_text(yaml.safe_dump(config))


def attacks(mark):
    """Configs that make the file `mark` if they are built."""
    touch = {"_target_": "distutils.spawn.spawn", "_args_": [["touch", mark]]}
    return {
        "distutils": touch,
        "in a list": {"deep": [{"deeper": [touch]}]},
        "pandas": {"_target_": "pandas.read_pickle", "_args_": [mark + ".pkl"]},
        "torch hub": {"_target_": "torch.hub.load", "repo_or_dir": mark, "model": "m", "source": "local"},
        "numpy": {"_target_": "numpy.savetxt", "_args_": [mark, [1, 2]]},
        "through a module of ours": {"_target_": "dsg.files.os.system", "_args_": [f"touch {mark}"]},
        "through a class of ours": {"_target_": "tasks.base.Task.__init__.__globals__.get"},
        "a function of ours": {"_target_": "dsg.files.write_text", "path": mark, "text": "x"},
        "a class of ours": {"_target_": "dsg.runs.results.Results", "out": mark, "owner": {}},
        "partial": {"_target_": "dsg.files.write_text", "_partial_": True},
        "an interpolation": {"_target_": "${oc.env:HOME}"},
        "no text": {"_target_": ["os.system"]},
        "a module beside the run": {"_target_": "evil.attack"},
    }  # fmt: skip


@pytest.mark.parametrize("name", attacks(""))
@pytest.mark.parametrize("place", ["task.extra", "metrics.psnr", "assumed", "sampler.known"])
def test_what_a_foreign_config_names_is_not_called(run, tmp_path, monkeypatch, capsys, name, place):
    mark = tmp_path / "attacked"
    (tmp_path / "evil.py").write_text(f"open({str(mark)!r}, 'w')\ndef attack(): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    change(run, place, attacks(str(mark))[name])
    assert evaluate([str(run), "--metrics", "ssim"]) == 1
    assert report([str(run)]) == 0  # which builds nothing
    said = capsys.readouterr().err
    assert "which is not built from a results folder" in said and "Traceback" not in said
    assert len(said.splitlines()) == 1 and not mark.exists()


@pytest.mark.parametrize(
    "path, value",
    [
        ("model.name", "../../evil"),  # configs/model/../../evil.yaml could name code
        ("task.name", "/tmp/evil"),
        ("sampler.steps", "{_target_: evil.attack}"),
        ("metrics", {"../evil": {"_target_": "dsg.metrics.image.PSNR"}}),
    ],
)
def test_names_in_a_foreign_config_choose_no_files(run, path, value, capsys):
    change(run, path, value)
    assert evaluate([str(run), "--metrics", "ssim"]) == 1 and report([str(run)]) == 0  # which builds nothing
    assert len(capsys.readouterr().err.splitlines()) == 1


ALIASES = "\n".join(["a0: &a0 [x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12))])


@pytest.mark.parametrize(
    "text", [ALIASES, "a: " + "[" * 3000 + "]" * 3000, "a: !!python/object/apply:os.system [ls]", ""]
)
def test_a_config_that_is_a_bomb_is_refused_at_once(run, text, capsys):
    (run / "config.yaml").write_text(text)
    assert evaluate([str(run), "--metrics", "ssim"]) == 1 and report([str(run)]) == 2
    assert "is damaged" in capsys.readouterr().err


def test_a_target_of_one_s_own_needs_its_folder_of_configs(run, tmp_path, monkeypatch):
    """Whoever names the folder trusts what is in it."""
    (tmp_path / "mine.py").write_text("from tasks.linear import Inpainting\nclass Mine(Inpainting): pass\n")
    (tmp_path / "configs/task").mkdir(parents=True)
    (tmp_path / "configs/task/mine.yaml").write_text("_target_: mine.Mine\n")
    monkeypatch.syspath_prepend(tmp_path)
    change(run, "task._target_", "mine.Mine")
    with pytest.raises(ValueError, match="names mine.Mine, which is not built"):
        add_metrics(run, ["ssim"], {})
    assert add_metrics(run, ["ssim"], {}, [tmp_path / "configs"]) == {}
    assert report([str(run)]) == 0  # which builds nothing


def test_a_text_that_looks_like_an_interpolation_stays_one(run):
    change(run, "wandb.group", r"a ${oc.env:HOME} \${b}")
    assert finished_run(run).config.wandb.group == r"a ${oc.env:HOME} \${b}"


def test_a_run_of_ours_is_read_as_it_was(run):
    config, owner = read_saved(run)
    assert owner["seed"] == 0 and config["metrics"] and "identity" not in config
    assert add_metrics(run, ["ssim"], {}) == {} and "ssim" in json.loads((run / "metrics.json").read_text())["metrics"]
