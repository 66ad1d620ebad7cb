"""One run: a prior, a task, a sampler, a set of images.   python run.py --help"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from dsg.cli import CommandLine, explain, parse, rewrite

CONFIGS = Path(__file__).resolve().parent / "configs"
STOPPED = 130  # by Ctrl-C
HELP = """\
One run: a prior, a task, a sampler, a set of images.

  python run.py                                                  16 embedded faces, random inpainting, DPS with DSG
  python run.py task=super_resolution sampler=mpgd_dsg sampler.steps=20
  python run.py data.root=photos data.limit=null                 your own images
  python run.py -m task=inpaint,gaussian_deblur sampler=dps,dps_dsg      a sweep, a process per GPU (--workers 4)
  python run.py -m launcher=slurm ...                                    on a Slurm cluster: docs/cluster.md

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

A value that nobody gives comes from the sampler, the prior, the task's recipe or the tuned table:
  python run.py --cfg job ...               prints every option of a run, and where its value comes from
  python run.py --config-dir folder ...     adds your own YAML files; they name what is built, so they are code
"""


def run_job(config: DictConfig, config_dirs: Sequence[str]) -> int:
    """Run a composed config. Returns the exit code."""
    from dsg.config import resolve  # brings torch, which takes seconds that --help and wrong choices do not need

    try:
        config, sources = resolve(config, config_dirs, HydraConfig.get().runtime.choices)
    except ValueError as error:
        return fail(error)
    for note in sources.notes:
        print(f"note: {note}", file=sys.stderr)
    from dsg.runs.main import run_one  # brings much else, not needed if the options are wrong

    return run_one(config, sources)


def choices() -> str:
    """The names in each group of configs."""
    names = {g: sorted(p.stem for p in (CONFIGS / g).glob("*.yaml")) for g in ("model", "task", "sampler", "metric")}
    wrapped = (fill(", ".join(n), 116, subsequent_indent=" " * 11) for n in names.values())
    return "".join(f"  {group:9}{text}\n" for group, text in zip(names, wrapped))


def fail(error: Exception | str) -> int:
    print(f"error: {error}", file=sys.stderr)
    return 2


def run(line: CommandLine) -> int:
    """The run, or all runs of a sweep (-m). Returns the exit code."""
    if line.multirun:
        from dsg.suites import cluster
        from dsg.suites.sweep import sweep

        cluster.check(line.launcher)
        return sweep(line.overrides, line.config_dirs, line.workers, line.launcher)
    codes: list[int] = []

    @hydra.main(version_base="1.3", config_path="configs", config_name="config")
    def job(config: DictConfig) -> None:
        codes.append(run_job(config, line.config_dirs))

    sys.argv[1:] = [*line.flags, *map(rewrite, line.overrides)]
    job()
    return max(codes, default=0)


def main(arguments: Sequence[str]) -> int:
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors, and we print them
    try:
        line = parse(arguments)
        if line.help:
            print(HELP.format(choices=choices()), end="")
            return 0
        if line.shows_config:
            from dsg.config import load_with_sources, to_yaml

            print(to_yaml(*load_with_sources(line.overrides, line.config_dirs)), end="")
            return 0
        return run(line)
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError, OSError) as error:
        return fail(explain(error))
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return STOPPED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
