"""The code in the docs, as it stands there; and what the README promises."""

import json
import re
import runpy

import pandas as pd
import pytest
import torch
from conftest import ROOT, script

README = (ROOT / "README.md").read_text()
PAGES = {
    page: page.read_text() for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md"))
}
BLOCKS = {m[1]: m[2] for m in re.finditer(r"```\w+\n# (\S+)\n(.*?)```", "".join(PAGES.values()), re.S)}


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """A folder with the files of docs/extending.md."""
    folder = tmp_path_factory.mktemp("mine")
    for name, text in BLOCKS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "run",
    [
        ["task=colourise", "sampler=clipped", "sampler.steps=4"],
        ["task=colour", "sampler=freedom_dsg", "sampler.steps=4", "samples=2"],
        ["model=white_noise", "data=avatars64", "sampler.steps=4", "sampler.clip_denoised=false"],
        ["metrics=[psnr,sharpness]", "sampler.steps=4"],
    ],
)
def test_a_task_a_sampler_a_prior_and_a_metric_of_one_file_and_one_yaml(mine, tmp_path, monkeypatch, run):
    monkeypatch.syspath_prepend(mine)
    options = ["data.limit=2", "wandb.mode=disabled", f"out={tmp_path / 'o'}"]
    done = script("run.py", "--config-dir", mine / "configs", *run, *options)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "o/images").glob("*.png"))) == 2
    if "metrics=[psnr,sharpness]" in run:
        assert json.loads((tmp_path / "o/metrics.json").read_text())["metrics"]["sharpness"]["mean"] > 0


def test_the_constraint_in_a_loop_of_one_s_own(avatars):
    """It lowers a loss that it is given, compared with no guidance."""
    space = {}
    exec(BLOCKS["own_loop.py"], space)
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    target = torch.zeros(2, 3, 64, 64)
    target[:, 0] = 0.5

    def loss(x0):
        return (x0 - target).flatten(1).norm(dim=1)

    ends = []
    for rate in (0.0, 0.3):
        torch.manual_seed(1)
        out = space["guided_sampling"](
            lambda x, t: avatars.predict(x, t).eps,
            loss,
            avatars.schedule.alpha_bar.float(),
            x,
            list(range(999, -1, -100)),
            rate,
        )
        ends.append(loss(out.detach()))
    assert (ends[1] < 0.9 * ends[0]).all()


def test_the_constraint_in_a_loop_of_diffusers():
    """It lowers a loss that it is given; and its steps have the sphere's length."""
    from diffusers import DDIMScheduler, UNet2DModel

    space = {}
    exec(BLOCKS["diffusers_loop.py"], space)
    torch.manual_seed(0)
    blocks = dict(down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, layers_per_block=1)
    unet = UNet2DModel(sample_size=16, block_out_channels=(8, 16), norm_num_groups=4, **blocks)
    x, steps, lengths = torch.randn(2, 3, 16, 16), 10, []
    constrained = space["spherical_gaussian_step"]

    def watched(mean, deviation, grad, sigma, rate):
        out = constrained(mean, deviation, grad, sigma, rate)
        lengths.append((out - mean).flatten(1).norm(dim=1) / (768**0.5 * sigma))
        return out

    space["spherical_gaussian_step"] = watched
    ends = []
    for rate in (0.0, 0.3):
        torch.manual_seed(1)
        loss = lambda x0: (x0 - 0.5).flatten(1).norm(dim=1)  # noqa: E731
        ends.append(loss(space["guided_sampling"](unet, DDIMScheduler(), loss, x, steps, rate)))
    assert (ends[1] < 0.9 * ends[0]).all()
    # the same sphere as ours, where the scheduler takes noise (its last step takes next to none)
    torch.testing.assert_close(torch.stack(lengths[:9] + lengths[10:19]), torch.ones(18, 2), rtol=0.01, atol=0)


def test_a_flow_in_a_loop_of_one_s_own():
    from diffusers import FlowMatchEulerDiscreteScheduler

    space, ends = {}, []
    exec(BLOCKS["flow_loop.py"], space)
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def velocity(x, s):
        """Of x0 ~ N(0, .25 I): E[eps - x0 | x] in closed form."""
        return x * (s - (1 - s) * 0.25) / ((1 - s) ** 2 * 0.25 + s**2)

    def loss(x0):
        return (x0 - 0.5).flatten(1).norm(dim=1)

    for rate in (0.0, 0.3):
        torch.manual_seed(1)
        ends.append(loss(space["guided_sampling"](velocity, FlowMatchEulerDiscreteScheduler(), loss, x, 10, rate)))
    assert (ends[1] < 0.9 * ends[0]).all()


def test_ground_truth_measures_a_sampler(capsys):
    exec(BLOCKS["compare_mine.py"], {})
    measured = dict(line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines() if "dtype" not in line)
    assert 0.2 < float(measured["sliced_wasserstein"]) < 2 and 0 < float(measured["coverage"]) <= 1


def test_every_file_that_the_docs_link_exists():
    for page, text in PAGES.items():
        for target in re.findall(r"\]\((?!http)([^)#]+)(?:#[^)]*)?\)", text):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
    for row in re.findall(r"^\| (`.*?) \|", README.split("## The map")[1].split("##")[0], re.M):
        for path in re.findall(r"`([^`]+)`", row):
            assert (ROOT / path).exists(), path


def test_the_choices_are_those_of_the_configs():
    for group in ("model", "task", "sampler"):
        listed = re.search(rf"^\| `{group}` \|(.*)\|$", README, re.M).group(1)
        names = re.findall(r"`(\w+)`", listed)
        assert sorted(names) == sorted(p.stem for p in (ROOT / "configs" / group).glob("*.yaml"))


def test_the_readme_is_a_front_page():
    assert len(README.encode()) < 8192


def test_prose_ends_before_column_120():
    for page, text in PAGES.items():
        prose = re.sub(r"```.*?```", "", text, flags=re.S)
        other = ("|", "    ", "![", "<!--")
        long = [line for line in prose.splitlines() if len(line) >= 120 and not line.startswith(other)]
        assert not long, f"{page.name}: {long[0][:60]}"


def test_the_tables_of_the_pages_are_those_of_the_results():
    fill()["fill"](check=True)


def fill():
    return runpy.run_path(str(ROOT / "scripts/fill_tables.py"))


def test_a_table_is_filled_from_a_csv(tmp_path):
    rows = [("dps", "hdr", 25.126, 24.0, 26.0), ("dps_dsg", "hdr", 26.0, 25.0, 27.0), ("dps", "box", 9.0, 8.0, 10.0)]
    data = pd.DataFrame(rows, columns=["method", "task", "mean", "low", "high"])
    data.to_csv(tmp_path / "t.csv", index=False)
    about = {"csv": str(tmp_path / "t.csv"), "rows": "method", "columns": "task", "cell": ["mean", "low", "high"]}
    lines = fill()["table"]({**about, "digits": 1, "best": "high", "names": {"hdr": "HDR"}}).splitlines()
    assert lines[0] == "| method | HDR | box |"
    assert lines[2:] == [
        "| DPS | 25.1 [24.0, 26.0] | **9.0** [8.0, 10.0] |",
        "| DPS + DSG | **26.0** [25.0, 27.0] | |",
    ]
    with pytest.raises(ValueError, match="more than one number in a cell"):
        fill()["table"]({**about, "rows": "task", "columns": "low"} | {"where": "low > 0", "columns": "task"})


def test_a_page_that_is_not_up_to_date_is_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "t.csv").write_text("method,psnr\ndps,25\n")
    (tmp_path / "README.md").write_text(
        "<!-- table: {csv: t.csv, rows: method, values: {PSNR: psnr}} -->\nold\n<!-- end -->\n"
    )
    script = fill()
    monkeypatch.setitem(script["fill"].__globals__, "REPOSITORY", tmp_path)
    assert script["main"](["--check"]) == 2
    assert "README.md is not what the results say" in capsys.readouterr().err
    assert script["main"]([]) == 0 and "| dps | 25.00 |" in (tmp_path / "README.md").read_text()
    assert script["main"](["--check"]) == 0


def test_the_counts_against_exact_posteriors_are_those_of_the_suite():
    found = pd.read_csv(ROOT / "results/theory/paired.csv")
    determined = found["setting"].isin(["linear64", "inpaint64", "sr64", "blur64"])
    control, against_control = found["method"].str.endswith("additive"), found["minus"].str.endswith("additive")
    nearer, sure, farther = found["difference"] < 0, found["high"] < 0, found["low"] > 0
    dsg = ~control & ~against_control
    counts = [
        f"in {(nearer & determined & dsg).sum()} of {(determined & dsg).sum()} comparisons, "
        f"{(sure & determined & dsg).sum()} beyond chance",
        f"in {(nearer & ~determined & dsg).sum()} of {(~determined & dsg).sum()}, "
        f"{(sure & ~determined & dsg).sum()} of them beyond chance, and {(farther & ~determined & dsg).sum()} are",
        f"in {(nearer & determined & control).sum()} of those {(determined & control).sum()} comparisons",
        f"Of all {against_control.sum()}, DSG is nearer than its control beyond chance in "
        f"{(sure & against_control).sum()}, and farther in {(farther & against_control).sum()}",
    ]
    text = " ".join(PAGES[ROOT / "docs/theory.md"].split())
    assert [count for count in counts if count not in text] == []
