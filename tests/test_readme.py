"""The code in the README, as it stands there."""

import os
import re
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

README, THEORY = (ROOT / "README.md").read_text(), (ROOT / "docs/theory.md").read_text()
BLOCKS = {m[1]: m[2] for m in re.finditer(r"```\w+\n# (\S+)\n(.*?)```", README + THEORY, re.S)}


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """A folder with the README's files."""
    folder = tmp_path_factory.mktemp("mine")
    for name, text in BLOCKS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    "cell",
    [
        ["task=colourise", "sampler=clipped", "sampler.steps=4"],
        ["task=colour", "sampler=freedom_dsg", "sampler.steps=4", "samples=2"],
        ["model=white_noise", "data=avatars64", "sampler.steps=4", "sampler.clip_denoised=false"],
    ],
)
def test_a_task_a_sampler_and_a_prior_of_one_file_and_one_yaml(mine, tmp_path, cell):
    command = [sys.executable, "run.py", "--config-dir", str(mine / "configs"), *cell]
    command += ["data.limit=2", "wandb.mode=disabled", f"out={tmp_path / 'o'}"]
    environment = {**os.environ, "PYTHONPATH": str(mine)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "o/images").glob("*.png"))) == 2


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
            lambda x, t: avatars.predict(x, t)[0],
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


def test_ground_truth_measures_a_sampler(capsys):
    exec(BLOCKS["measure_mine.py"], {})
    measured = dict(line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines() if "dtype" not in line)
    assert 0.2 < float(measured["sliced_wasserstein"]) < 2 and 0 < float(measured["coverage"]) <= 1


def test_every_file_the_readme_links_exists():
    for text, folder in ((README, ROOT), (THEORY, ROOT / "docs")):
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
            assert (folder / target).exists(), target
    for path in re.findall(r"^\| `([^`]+)`", README.split("## The house")[1].split("##")[0], re.M):
        assert (ROOT / path).exists(), path


def test_the_choices_are_those_of_the_configs():
    for group in ("model", "task", "sampler"):
        listed = re.search(rf"^\| `{group}` \|(.*)\|$", README, re.M).group(1)
        names = re.findall(r"`(\w+)`", listed)
        assert sorted(names) == sorted(p.stem for p in (ROOT / "configs" / group).glob("*.yaml"))
