"""A suite on the command line: plan, check, run, tables and figures, exit code."""

import sys
from collections.abc import Sequence
from pathlib import Path

from dsg.arguments import Parser, positive
from dsg.benchmark import engine
from dsg.benchmark.dry import describe
from dsg.benchmark.jobs import Job
from dsg.benchmark.plan import plan
from dsg.benchmark.suite import Outcome, Suite, call, load, names
from dsg.runs.prepare import pick_device
from dsg.runs.tracking import MODES, check_login


def parser(description: str) -> Parser:
    result = Parser(description)
    result.add_argument("--suite", default="embedded", choices=names())
    result.add_argument("--images", "--conditions", type=int, help="per task (default: the suite's)")
    result.add_argument("--samples", type=int, help="per image or condition")
    result.add_argument("--steps", help="numbers of steps, '20 100'")
    result.add_argument("--tasks", "--settings", nargs="+", help="only these")
    result.add_argument("--most-steps", type=positive, help="leave out what takes more steps")
    result.add_argument("--options", nargs="+", help="overrides of every run, as for run.py")
    result.add_argument("--out", type=Path, help="folder (default: the suite's)")
    result.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:<index>, mps")
    result.add_argument("--wandb", default="offline", choices=MODES)
    result.add_argument("--workers", type=int, help="processes, one thread each (default: the suite's)")
    result.add_argument("--dry", action="store_true", help="print the plan, and run nothing")
    return result


def main(arguments: Sequence[str], description: str = "") -> int:
    """The exit code of `scripts/reproduce.py`."""
    command_line = parser(description)
    args = command_line.parse_args(arguments)
    try:
        steps = None if args.steps is None else numbers(args.steps)
        suite = load(
            args.suite, images=args.images, samples=args.samples, steps=steps, tasks=args.tasks, options=args.options,
            most_steps=args.most_steps, out=args.out, device=args.device, wandb=args.wandb, workers=args.workers,
        )  # fmt: skip
        pick_device(args.device)
        check_login(args.wandb)
    except ValueError as error:
        command_line.error(str(error))
    return run_suite(suite, args.dry)


def numbers(text: str) -> list[int]:
    """Of '20 100'."""
    words = text.replace(",", " ").split()
    if not all(word.isdecimal() for word in words):
        raise ValueError(f"--steps {text}: whole numbers are expected, such as '20 100'")
    return [int(word) for word in words]


def run_suite(suite: Suite, dry: bool = False) -> int:
    """Run what is not finished, and write the suite's tables and figures.

    Returns:
        the exit code: 0; 1 if anything failed, whatever else was done; 2 if something is wrong with the suite, and
        nothing was begun; 130 if it was interrupted.
    """
    try:
        jobs = plan(suite)
    except engine.EXPECTED as error:
        return tell([str(error)])
    errors = engine.check(jobs)
    if dry:
        print(describe(jobs, errors), end="")
        return 2 if errors else 0
    if errors:
        return tell(errors)
    suite.out.mkdir(parents=True, exist_ok=True)
    try:
        failures = engine.run(jobs, f"suite {suite.name}", suite.workers)
    except KeyboardInterrupt:
        print(f"stopped; the same command goes on: {suite.out}", file=sys.stderr)
        return 130
    written = draw(suite, jobs, failures)
    print(f"{suite.out}: {', '.join(written)}")
    for line in failures:
        print(f"failed: {line}", file=sys.stderr)
    if failures:
        print(f"{len(failures)} failed; the same command tries them again", file=sys.stderr)
    return 1 if failures else 0


def draw(suite: Suite, jobs: list[Job], failures: list[str]) -> list[str]:
    """The names of the tables and figures that were written; one that fails is added to `failures`."""
    outcome, written = Outcome(suite, jobs), []
    for spec in [*suite.yaml.get("tables", ()), *suite.yaml.get("figures", ())]:
        try:
            written += call(spec, outcome)
        except Exception as error:
            if not failures:  # everything is there: this is a fault of ours
                raise
            failures.append(f"{spec['_target_']}: {type(error).__name__}: {error}")
    return written


def tell(errors: Sequence[str]) -> int:
    """The first error; a dry run lists them all."""
    more = f" (and {len(errors) - 1} more: --dry lists them)" if len(errors) > 1 else ""
    print(f"error: {errors[0].splitlines()[0]}{more}", file=sys.stderr)
    return 2
