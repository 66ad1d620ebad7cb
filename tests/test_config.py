"""Where the values of a run come from, and what is refused before anything is built."""

import json
import math
import threading
from pathlib import Path

import pytest
from conftest import ROOT, script
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from omegaconf import OmegaConf

from dsg.cli import parse
from dsg.config import load, load_with_sources, to_yaml
from dsg.options import check, fits, locate, parameters
from dsg.overrides import combinations, explain, rewrite
from dsg.tuned import at_steps, read_table

FROZEN = json.loads((Path(__file__).parent / "data/resolved_options.json").read_text())
TABLE = read_table(ROOT / "configs/tuned/avatars64.csv")
S20, S100 = (TABLE["inpaint", "dps_dsg", steps]["guidance_rate"] for steps in ("20", "100"))
HEAD = "task,sampler,steps,option,value,source\n"


def written(folder, files):
    """A folder of the user's YAML files."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


# --- the values


@pytest.mark.parametrize("run", FROZEN["sampler"])
def test_the_values_are_those_that_the_results_were_made_with(run):
    """But for numbers of steps that were never tuned, and in no table: those lie between their neighbours now, and
    not at the median (`any`). What is tuned with the weights of avatars64 is left out."""
    model, task, sampler = run.split()
    for steps, options in FROZEN["sampler"][run].items():
        config = load([f"model={model}", f"task={task}", f"sampler={sampler}", f"sampler.steps={steps}"])
        values = OmegaConf.to_container(config)
        assert_contains(values["sampler"], FROZEN["usual"] | options)
        assert values["sampler"]["steps"] == int(steps) and values["sampler"]["name"] == sampler
    assert_contains(values["model"], FROZEN["model"][model])
    assert_contains(values["task"], FROZEN["task"][f"{model} {task}"])


def assert_contains(values, expected, path=""):
    if isinstance(expected, dict):
        for key, below in expected.items():
            assert_contains(values[key], below, f"{path}.{key}")
    else:
        assert values == expected, path


def test_each_layer_wins_over_those_before_it_and_is_recorded():
    config, sources = load_with_sources(["task=faceid", "sampler=freedom", "sampler.steps=50", "sampler.interval=2"])
    expected = {
        "sampler.boost.factor": (1.0, "default"),
        "sampler.travel.window": ([400, 700], "sampler/freedom.yaml"),
        "sampler.travel.repeats": (1, "tuned/any.csv"),  # 2 in sampler/freedom.yaml
        "sampler.clip_denoised": (True, "tuned/avatars64.csv"),  # false in tuned/any.csv
        "sampler.step_size": (TABLE["faceid", "freedom", "50"]["step_size"], "tuned/avatars64.csv"),
        "sampler.interval": (2, "override"),
        "task.image_size": (64, "model/avatars64.yaml"),  # 256 in task/faceid.yaml
        "task.guidance.features": (128, "model/avatars64.yaml"),
        "task.cpu_batch": (4, "task/faceid.yaml"),
        "metrics.same_identity.checkpoint": ("checkpoints/avatars64/evaluator", "model/avatars64.yaml"),
        "data.limit": (16, "data/avatars64.yaml"),
        "batch_size": (None, "config.yaml"),
    }
    assert {path: (OmegaConf.select(config, path), sources[path]) for path in expected} == expected
    _, sources = load_with_sources(["model=sd14", "sampler.guidance_rate=0.3"])
    assert sources["sampler.spacing"] == "model/sd14.yaml" and sources["sampler.guidance_rate"] == "override"


def test_the_user_wins_over_the_table_and_null_is_a_value():
    config = load(
        ["task=faceid", "sampler=mpgd", "sampler.step_size=3", "sampler.window=null", "task.crop=[1,60,2,61]"]
    )
    assert (config.sampler.step_size, config.sampler.window, config.task.crop) == (3, None, [1, 60, 2, 61])


def test_a_sampler_of_one_s_own_gets_every_layer_from_a_short_file(tmp_path):
    """As the README's: the prior's option, the constructor's defaults, and its base method's rows if it names one."""
    text = "_target_: dsg.samplers.DPS\nname: clipped\nsteps: 20\nstep_size: 4.0\n"
    mine = written(tmp_path, {"sampler/clipped.yaml": text, "sampler/mine.yaml": text + "base_method: dps_dsg\n"})
    config, sources = load_with_sources(["model=gaussian_mixture", "sampler=clipped"], [mine])
    assert config.sampler.clip_denoised is False and sources["sampler.clip_denoised"] == "model/gaussian_mixture.yaml"
    assert (config.sampler.step_size, config.sampler.kernel) == (4.0, "ddim")
    assert instantiate(config.sampler).travel.window == [400, 700]
    config, sources = load_with_sources(["task=faceid", "sampler=mine"], [mine])
    assert config.sampler.window == [100, 1000] and sources["sampler.window"] == "tuned/any.csv"


def test_the_tuned_table_goes_from_general_to_special(tmp_path):
    rows = """any,any,any,interval,2,
any,any,any,eta,0.1,
any,any,any,no_such_option,1,
any,dps,any,eta,0.2,
inpaint,any,any,eta,0.3,
inpaint,dps,any,step_size,7.0,
inpaint,dps,100,step_size,8.0,
"""
    mine = written(tmp_path, {"tuned/ffhq256.csv": HEAD + rows})
    dps, ten, dsg, blur = (
        load(["model=ffhq256", *options], [mine]).sampler
        for options in (
            ["sampler=dps"],
            ["sampler=dps", "sampler.steps=10"],
            ["sampler=dps_dsg"],
            ["sampler=dps", "task=gaussian_deblur"],
        )
    )
    assert (dps.interval, dps.eta, dps.step_size) == (2, 0.3, 8.0)
    assert (ten.interval, ten.eta, ten.step_size) == (2, 0.3, 8.0)  # of the nearest number of steps, not of any
    assert (dsg.interval, dsg.eta, dsg.guidance_rate) == (1, 0.3, 0.2)  # interval: the project's own row
    assert (blur.interval, blur.eta, blur.step_size) == (2, 0.2, 1.0)


def test_the_parts_of_a_sum_take_the_prior_s_defaults_by_their_names():
    parts = load(["task=composite", "+task@task.parts.small=super_resolution", "+task.weights.small=1"]).task.parts
    assert parts.faceid.crop == [0, 64, 0, 64] and parts.style.image_size == 64
    assert parts.clip_text.prompt == "data/avatars64/prompts.txt" and parts.small.factor == 4


def test_metrics_are_those_of_the_task_or_those_that_are_named():
    assert list(load().metrics) == ["psnr", "ssim", "haarpsi", "lpips_vgg"]
    config = load(["task=composite", "task.weights={faceid: 1, clip_text: 0, segmentation: 2}"])
    assert list(config.metrics) == ["identity_attributes", "same_identity", "miou", "clip_score"]
    assert load(["model=celebahq256", "task=faceid"]).metrics.same_identity.checkpoint is None  # it has no evaluator
    named = load(["metrics=[lpips_alex,miou]"]).metrics
    assert named.lpips_alex.net == "alex" and named.miou.checkpoint == "checkpoints/avatars64/evaluator"


def test_interpolations_see_the_values_of_the_run():
    config = load(["out=results/${sampler.name}-${sampler.steps}-${sampler.guidance_rate}", "sampler.steps=20"])
    assert config.out == f"results/dps_dsg-20-{S20:g}"


def test_a_config_is_yaml_with_its_sources_and_reads_as_itself():
    config, sources = load_with_sources(["task=clip_text", "task.prompt=a: # 'é' \"x\"\nand more", "sampler.steps=20"])
    text = to_yaml(config, sources)
    assert OmegaConf.create(text) == config
    assert "  guidance_rate: 0.05  # tuned/any.csv\n" in text and "  steps: 20  # override\n" in text


def test_loading_works_again_in_threads_inside_hydra_and_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = {}
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        inside = GlobalHydra.instance().hydra
        run = lambda n: found.update({n: load([f"sampler.steps={n}"]).sampler.steps})  # noqa: E731
        threads = [threading.Thread(target=run, args=(n,)) for n in (10, 20, 30)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == {10: 10, 20: 20, 30: 30} and GlobalHydra.instance().hydra is inside


# --- what the user is told


@pytest.mark.parametrize(
    "overrides, words",
    [
        (["sampler.step_size=3"], ["sampler.step_size=3 changes nothing", "guidance_rate"]),
        (["sampler=mpgd", "sampler.guidance_rate=0.5"], ["sampler.guidance_rate=0.5 changes nothing"]),
        (["sampler.kernel=ddpm", "sampler.eta=0.3"], ["sampler.eta=0.3 changes nothing"]),
        (["sampler.variance=fixed_small"], ["sampler.variance=fixed_small changes nothing"]),
        (["sampler=unconditional", "sampler.interval=3"], ["sampler.interval=3 changes nothing"]),
        (
            ["sampler.steps=10"],
            ["not tuned for 10 steps, only for 20, 100", f"guidance_rate={S20:g} (tuned/avatars64.csv, at 20 steps)"],
        ),
    ],
)
def test_a_note_says_what_has_no_effect_and_what_was_never_tuned(overrides, words):
    _, sources = load_with_sources(["sampler.steps=20", *overrides])
    assert len(sources.notes) == 1 and all(word in sources.notes[0] for word in words)


def test_there_is_no_note_where_the_user_or_the_table_decides():
    assert load_with_sources(["sampler.steps=20"])[1].notes == []
    assert load_with_sources(["sampler.steps=10", "sampler.guidance_rate=0.3"])[1].notes == []


@pytest.mark.parametrize(
    "steps, expected, source",
    [
        (20, S20, "tuned/avatars64.csv"),
        (44, S20 * (S100 / S20) ** (math.log(44 / 20) / math.log(5)), "tuned/avatars64.csv, between 20 and 100 steps"),
        (5, S20, "tuned/avatars64.csv, at 20 steps"),
        (500, S100, "tuned/avatars64.csv, at 100 steps"),
    ],
)
def test_between_tuned_numbers_of_steps_a_value_follows_a_power_law_and_beyond_them_the_nearest(
    steps, expected, source
):
    config, sources = load_with_sources([f"sampler.steps={steps}"])
    assert config.sampler.guidance_rate == pytest.approx(expected, abs=1e-4)
    assert sources["sampler.guidance_rate"] == source


def test_entries_that_name_a_kernel_too_hold_for_their_own_number_of_steps_only():
    config, sources = load_with_sources(["model=ffhq256", "task=super_resolution", "sampler=dps", "sampler.steps=500"])
    assert (config.sampler.step_size, sources["sampler.step_size"]) == (1.0, "tuned/ffhq256.csv, at 100 steps")
    assert config.sampler.kernel == "ddim"  # ddpm at 1000 steps


def test_beside_a_zero_the_nearest_value_is_taken():
    table = {10: {"x": 0.0}, 1000: {"x": 2.0}}
    assert at_steps(table, 20, ["x"]) == ({"x": 0.0}, "between 10 and 1000 steps")
    assert at_steps(table, 900, ["x"])[0] == {"x": 2.0}
    assert at_steps({}, 20, ["x"]) == ({}, "")


# --- what is refused

GROUPS = {
    group: sorted(p.stem for p in (ROOT / "configs" / group).glob("*.yaml")) for group in ("model", "task", "sampler")
}
WRONG = {"number": "abc", "list": 5, "text": 3, "switch": "no", "mapping": 1}


@pytest.mark.parametrize("group, name", [(group, name) for group, names in GROUPS.items() for name in names])
def test_every_option_is_checked_against_its_type(group, name):
    """Of every shipped file: each option that the constructor annotates refuses values of other types, by its name."""
    options = OmegaConf.to_container(load([f"{group}={name}"])[group])
    kind = locate(options["_target_"])
    assert list(check(options, kind, group)) == []
    for option, parameter in parameters(kind).items():
        for value in WRONG.values():
            problems = [p.message for p in check(options | {option: value}, kind, group)]
            assert (problems == []) == fits(value, parameter.annotation)
            assert all(problem.startswith(f"{group}.{option}={value}: expected ") for problem in problems)
        if parameter.annotation is not parameter.empty and option != "guidance":
            refused = [v for v in WRONG.values() if not fits(v, parameter.annotation)]
            assert refused, option


@pytest.mark.parametrize(
    "override, message",
    [
        ("sampler.steps=abc", "sampler.steps=abc: expected an integer"),
        ("sampler.steps=1e2", "sampler.steps=100.0: expected an integer"),
        ("sampler.steps=true", "sampler.steps=True: expected an integer"),
        ("sampler.window=5", "sampler.window=5: expected [lo, hi] or null"),
        ("sampler.window=[5", "sampler.window=[5: expected [lo, hi] or null"),
        ("sampler.travel.window=null", "sampler.travel.window=None: expected [lo, hi]"),
        ("sampler.travel=null", "sampler.travel=None: expected {option: value, ...}"),
        ("sampler.clip_denoised=no", "sampler.clip_denoised=no: expected true or false"),
        ("sampler.kernel=3", "sampler.kernel=3: expected text"),
        ("model.unet.num_channels=x", "model.unet.num_channels=x: expected an integer"),
        ("model.cpu_batch=x", "model.cpu_batch=x: expected an integer"),
        ("task.masked_fraction=0.5", "task.masked_fraction=0.5: expected [a number, ...]"),
        ("batch_size=0", "batch_size=0: an integer, 1 or more"),
        ("seed=-1", "seed=-1: an integer, 0 or more"),
        ("samples=2.5", "samples=2.5: expected an integer"),
        ("data.limit=0", "data.limit=0: an integer, 1 or more"),
        ("data.degraded=off", "data.degraded=off: expected true or false"),
        ("wandb.mode=sometimes", "wandb.mode=sometimes: expected one of offline, online, disabled"),
        ("data.root=", "data.root= is empty (an unset shell variable?): give a value, or null"),
        ("out=", "out= is empty (an unset shell variable?): give a value, or null"),
        ("metrics=psnr", "metrics=psnr: expected a list of names, such as [psnr,lpips_vgg]"),
        ("sampler.step=3", "unknown option sampler.step: did you mean sampler.steps?"),
        ("+sampler.step=3", "unknown option sampler.step: did you mean sampler.steps?"),
        ("steps=20", "unknown option steps: did you mean sampler.steps?"),
        ("+steps=20", "unknown option steps: did you mean sampler.steps?"),
        ("sampler.boost.facto=2", "unknown option sampler.boost.facto: did you mean sampler.boost.factor?"),
        ("model.unet.num_chanels=2", "unknown option model.unet.num_chanels: did you mean model.unet.num_channels?"),
        ("data.limt=2", "unknown option data.limt: did you mean data.limit?"),
        ("modle=avatars64", "unknown option modle: did you mean model?"),
        ("xyzzy=1", "unknown option xyzzy: python run.py --cfg job lists all"),
        ("sampler=dps_dgs", "sampler=dps_dgs is unknown: did you mean dps_dsg? one of "),
        ("sampler=null", "sampler=null: choose one of configs/sampler/"),
        ("sampler._target_=numpy.savetxt", "sampler._target_=numpy.savetxt: code is named in YAML files"),
        ("metrics.kid.subset_size=5", "metrics.kid.subset_size=5: options of a metric are set in YAML"),
        ("sampler.travel={_target_: numpy.savetxt}", "sampler.travel._target_: code is named in YAML files"),
        ("out=${nowhere.at.all}", "Interpolation key 'nowhere.at.all' not found"),
        ("steps", "steps: expected option=value"),
        ("=5", "=5: expected option=value"),
        ("ünï=1", "unknown option ünï: python run.py --cfg job lists all"),
        ("foo.bar=1", "unknown option foo.bar: python run.py --cfg job lists all"),
        ("task=inpaint,hdr", "task=inpaint,hdr: several values are a sweep: add -m"),
        ("metrics=[lpips]", "metrics: lpips is unknown: did you mean lpips_vgg? one of "),
        ("sampler.window=[nan,nan]", "sampler.window=[nan, nan]: finite numbers only"),
        ("task.sigma=inf", "task.sigma=inf: finite numbers only"),
        ("task.masked_fraction=0.92", "task.masked_fraction=0.92: expected [a number, ...]"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(override, message):
    with pytest.raises(ValueError) as error:
        load([override])
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_an_option_that_is_missing_is_named(tmp_path):
    mine = written(tmp_path, {"task/colour.yaml": "_target_: tasks.linear.SuperResolution\nfactor: 4\n"})
    with pytest.raises(ValueError, match="^task.name is missing$"):
        load(["task=colour"], [mine])
    written(tmp_path, {"task/colour.yaml": "_target_: tasks.of_mine.Colour\nname: colour\n"})
    with pytest.raises(ValueError, match="tasks.of_mine.Colour cannot be imported"):
        load(["task=colour"], [mine])


# --- the command line

AWKWARD = [
    "My Photos (2024)",
    "it's",
    "a dog, a cat!",
    "José 日本 😀",
    "a&b|c;d",
    "[x",
    "{y}",
    "'half",
    "tail\\",
    "2024",
    "#1",
]


@pytest.mark.parametrize("text", [*AWKWARD, "true", "1e3", "a=b", "x:y", 'say "hi"', " spaces ", "two\nlines", "a\\'b"])
@pytest.mark.parametrize("option", ["data.root", "out", "task.reference", "model.checkpoint", "wandb.group"])
def test_texts_are_taken_as_they_stand(option, text):
    override = OverridesParser.create().parse_override(rewrite(f"{option}={text}"))
    assert override.key_or_group == f"user.{option}" and override.value() == text and not override.is_sweep_override()


def test_texts_reach_the_config_and_null_is_none():
    for text in AWKWARD:
        config = load([f"data.root={text}", f"out={text}", "task=faceid", f"task.reference={text}"])
        assert config.data.root == config.out == config.task.reference == text
    config = load(["data.root=~/photos", "out=null", "task=clip_text", "task.prompt='quoted for Hydra'"])
    assert config.data.root == str(Path.home() / "photos") and config.out is None
    assert config.task.prompt == "quoted for Hydra"


@pytest.mark.parametrize(
    "override, expected",
    [
        ("sampler.steps=20,100", [20, 100]),
        ("task.prompt=choice('a dog','a cat')", ["a dog", "a cat"]),
        ("sampler.kernel=ddim,ddpm", ["ddim", "ddpm"]),
    ],
)
def test_a_sweep_is_every_combination(override, expected):
    name = override.partition("=")[0]
    assert combinations(["seed=1", override]) == [["seed=1", f"{name}={value}"] for value in expected]


def test_choices_and_hydra_s_own_options_stay_as_they_are():
    for override in (
        "sampler=dps",
        "model=sd14",
        "hydra.sweep.dir=x",
        "+task@task.parts.small=inpaint",
        "~sampler.steps",
    ):
        assert rewrite(override) == override


def test_flags_and_overrides_may_be_mixed():
    line = parse(["seed=1", "-m", "task=inpaint", "--config-dir", "mine", "sampler=dps"])
    assert line.overrides == ["seed=1", "task=inpaint", "sampler=dps"]
    assert line.multirun and line.config_dirs == [str(Path("mine").absolute())]
    assert [Path(folder).name for folder in line.config_dirs] == ["mine"] and not line.help


def test_help_is_a_screenful_and_the_config_is_shown_with_its_sources():
    shown = script("run.py", "--help")
    assert shown.returncode == 0 and len(shown.stdout.splitlines()) < 45
    assert all(word in shown.stdout for word in ("dps_dsg", "super_resolution", "sampler.steps", "--cfg job"))
    shown = script("run.py", "--cfg", "job", "sampler.steps=20")
    assert f"  guidance_rate: {S20:g}  # tuned/avatars64.csv\n" in shown.stdout and shown.returncode == 0


def test_errors_of_the_command_line_are_one_line():
    for arguments in (["sampler.step=3"],):
        done = script("run.py", *arguments)
        assert done.returncode == 2 and done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1
    assert explain(ValueError("one\ntwo")) == "one"
