"""Run a suite (configs/suite/) and write its tables and figures.

    make reproduce                                             # suites embedded and semantic
    make reproduce SUITE=theory                                # samplers against exact posteriors: docs/theory.md
    make reproduce SUITE=ffhq256 DRY=1                         # only the plan: what would run, and what is missing for it
    python scripts/reproduce.py --images 64 --out results/embedded64
    python scripts/reproduce.py --suite semantic --images 32 --samples 4 --out results/semantic512

Runs are ordinary ones, in `<out>/runs/<task>/<sampler>-<steps>`: `run.py` would make the same images. A stopped suite goes on
where it was; a finished one only writes its tables and figures again.
"""

import argparse
import sys
from pathlib import Path

from dsg.benchmark.main import run_suite
from dsg.benchmark.suite import load, names
from dsg.runs.prepare import pick_device
from dsg.runs.tracking import MODES, check_login


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--suite", default="embedded", choices=names())
    result.add_argument("--images", "--conditions", type=int, help="per task (default: the suite's)")
    result.add_argument("--samples", type=int, help="per image or condition")
    result.add_argument("--steps", help="numbers of steps, '20 100'")
    result.add_argument("--tasks", "--settings", nargs="+", help="only these")
    result.add_argument("--most-steps", type=int, help="leave out what takes more steps")
    result.add_argument("--options", nargs="+", help="overrides of every run, as for run.py")
    result.add_argument("--out", type=Path, help="folder (default: the suite's)")
    result.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:<index>, mps")
    result.add_argument("--wandb", default="offline", choices=MODES)
    result.add_argument("--workers", type=int, help="processes, one thread each (default: the suite's)")
    result.add_argument("--dry", action="store_true", help="print the plan, and run nothing")
    return result


def main() -> int:
    command_line = parser()
    args = command_line.parse_args()
    try:
        steps = None if args.steps is None else [int(n) for n in args.steps.replace(",", " ").split()]
        suite = load(
            args.suite, images=args.images, samples=args.samples, steps=steps, tasks=args.tasks, options=args.options,
            most_steps=args.most_steps, out=args.out, device=args.device, wandb=args.wandb, workers=args.workers,
        )  # fmt: skip
        pick_device(args.device)
        check_login(args.wandb)
    except ValueError as error:
        command_line.error(str(error))
    return run_suite(suite, args.dry)


if __name__ == "__main__":
    sys.exit(main())
