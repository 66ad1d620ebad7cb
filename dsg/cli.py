"""The command line of run.py: its help, its flags, and `option=value` as it stands (dsg/overrides.py reads those)."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill

from dsg.arguments import Parser, positive
from dsg.files import CONFIGS

HELP = """\
One run: a prior, a task, a sampler, a set of images.

  python run.py                                                  16 embedded faces, random inpainting, DPS with DSG
  python run.py task=super_resolution sampler=mpgd_dsg sampler.steps=20
  python run.py data.root=photos data.limit=null                 your own images
  python run.py -m task=inpaint,gaussian_deblur sampler=dps,dps_dsg      a sweep, a process per GPU (--workers 4)
  python run.py -m launcher=slurm ...                                    on a Slurm cluster: docs/running.md

Choices, a file each in configs/:
{choices}
Options:
  sampler.steps=100             reverse steps
  sampler.step_size=0.5         of dps, freedom, mpgd              sampler.guidance_rate=0.2    of DSG, 0 to 1
  sampler.interval=1            guide every so many steps          sampler.window=[lo,hi]       guide for lo < t <= hi
  sampler.kernel=ddim           ddim, ddpm, freedom                sampler.eta=1.0              its noise, 0 to 1
  data.root=folder              your images                        data.limit=16                by id; null: all
  data.degraded=true            they are degraded already          task.mask=mask.png           white = observed
  task.reference=face.png       image or folder                    task.prompt=a sad person     text or .txt file
  samples=1                     per condition                      seed=0
  batch_size=16                 auto: as many as a GPU holds       device=auto                  cpu, cuda, cuda:1, mps
  out=folder                    default: under results/            metrics=[psnr,lpips_vgg]     default: the task's
  model.checkpoint=file         weights                            wandb.mode=offline           online, disabled

A value that nobody gives comes from the sampler, the prior or the tables of values, configs/tuned/:
  python run.py --cfg job ...               prints every option of a run, and where its value comes from
  python run.py --config-dir folder ...     adds your own YAML files; they name what is built, so they are code
"""


@dataclass(frozen=True)
class CommandLine:
    """What run.py was asked for.

    Attributes:
        overrides: `option=value`, as they were written.
        config_dirs: folders of the user's YAML files.
        help: whether help was asked for.
        shows_config: whether the values of the run are printed instead of used.
        multirun: whether it is a sweep (-m).
        workers: processes of a sweep; None: one per GPU.
        launcher: the queue that runs a sweep instead, and its options (`dsg.suites.cluster.settings`).
    """

    overrides: list[str]
    config_dirs: list[str]
    help: bool = False
    shows_config: bool = False
    multirun: bool = False
    workers: int | None = None
    launcher: Sequence[str] = ()


def parse(arguments: Sequence[str]) -> CommandLine:
    """The command line, its flags and overrides in whatever order.

    Raises:
        ValueError: another main config than ours; options of a sweep without a sweep.
        SystemExit: an unknown flag.
    """
    usage = "python run.py [--help] [--cfg job] [-m] [--config-dir folder] option=value ..."
    parser = Parser(usage=usage, add_help=False)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("--cfg", "-c", choices=["job"])
    parser.add_argument("--multirun", "-m", action="store_true")
    parser.add_argument("--config-dir", "-cd", action="append", default=[])
    parser.add_argument("--workers", type=positive)
    for flags in (("--config-name", "-cn"), ("--config-path", "-cp")):
        parser.add_argument(*flags, help=argparse.SUPPRESS)
    found = parser.parse_intermixed_args(arguments)
    if found.config_name or found.config_path:
        raise ValueError("--config-name, --config-path: run.py has one main config; --config-dir adds YAML files to it")
    launcher = launcher_of(found.overrides)
    if (launcher or found.workers is not None) and not found.multirun:
        raise ValueError("launcher=, --workers are for sweeps: add -m, for a single run too")
    overrides = [override for override in found.overrides if not override.startswith(("launcher=", "launcher."))]
    folders = [str(Path(folder).absolute()) for folder in found.config_dir]
    return CommandLine(overrides, folders, found.help, found.cfg == "job", found.multirun, found.workers, launcher)


def launcher_of(overrides: Sequence[str]) -> list[str]:
    """The queue that is named by `launcher=slurm launcher.partition=gpu`, as [slurm, partition=gpu]."""
    named = [override.removeprefix("launcher=") for override in overrides if override.startswith("launcher=")]
    options = [override.removeprefix("launcher.") for override in overrides if override.startswith("launcher.")]
    if any(override.startswith("hydra/launcher=") for override in overrides):
        raise ValueError("hydra/launcher=: launcher=slurm, and options as launcher.partition=gpu")
    if options and not named:
        raise ValueError(f"launcher.{options[0]}: launcher=slurm is missing")
    return [*named[-1:], *options]


def help_text() -> str:
    """The help, with the names in each group of configs."""
    text = ""
    for group in ("model", "task", "sampler", "metric"):
        names = ", ".join(sorted(path.stem for path in (CONFIGS / group).glob("*.yaml")))
        text += f"  {group:9}{fill(names, 116, subsequent_indent=' ' * 11)}\n"
    return HELP.format(choices=text)
