"""A suite, or a group of suites, on the command line: plan, check, run, write tables and figures."""

import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dsg.arguments import Parser, positive
from dsg.runs.prepare import check_folders, pick_device
from dsg.runs.tracking import MODES, check_login
from dsg.suites import cluster, engine, plan_report
from dsg.suites.jobs import Job
from dsg.suites.plan import plan
from dsg.suites.suite import Outcome, Suite, call, load, members, names


def parser(description: str) -> Parser:
    """The options of scripts/reproduce.py."""
    result = Parser(description)
    usual = "benchmark_small"
    result.add_argument("--suite", default=usual, choices=names(), help="one, or a group of them, such as paper")
    result.add_argument("--smoke", action="store_true", help="its smallest size, on embedded models")
    result.add_argument("--ready", action="store_true", help="of a group, only the suites that lack nothing")
    result.add_argument("--images", "--conditions", type=int, help="per task (default: the suite's)")
    result.add_argument("--samples", type=int, help="per image or condition")
    result.add_argument("--steps", help="numbers of steps, '20 100'")
    result.add_argument("--tasks", "--settings", nargs="+", help="only these")
    result.add_argument("--models", nargs="+", help="priors (default: the suite's)")
    result.add_argument("--most-steps", type=positive, help="leave out what takes more steps")
    result.add_argument("--options", nargs="+", help="overrides of every run, as for run.py")
    result.add_argument("--tune", action="store_true", help="first choose all values on the prior's validation images")
    result.add_argument("--tuning", nargs="+", metavar="NAME=VALUE", help="images=64 seeds=3 trials=8 store=FOLDER")
    result.add_argument("--out", type=Path, help="folder (default: the suite's); of a group, a folder of each in it")
    result.add_argument("--device", help="auto (default), cpu, cuda, cuda:<index>, mps")
    result.add_argument("--wandb", default="offline", choices=MODES)
    result.add_argument("--workers", type=positive, help="processes (default: the suite's, or one per GPU)")
    result.add_argument(
        "--launcher", nargs="+", default=(), help="a job per run in a cluster's queue: slurm partition=gpu (docs)"
    )
    result.add_argument("--dry", action="store_true", help="print the plan, and run nothing")
    return result


def main(arguments: Sequence[str], description: str = "") -> int:
    """Run scripts/reproduce.py. Returns its exit code."""
    command_line = parser(description)
    args = command_line.parse_args(arguments)
    try:
        steps = None if args.steps is None else numbers(args.steps)
        chosen = members(args.suite)
        suites = [
            load(
                name, args.smoke, images=args.images, samples=args.samples, steps=steps, tasks=args.tasks,
                models=args.models, options=args.options, most_steps=args.most_steps, device=args.device,
                wandb=args.wandb, out=args.out / name if args.out and len(chosen) > 1 else args.out,
                workers=args.workers, tune=args.tune, tuning=args.tuning, launcher=args.launcher,
            )
            for name in chosen
        ]  # fmt: skip
        for one in suites:
            check_folders(one.out, None)
        pick_device(args.device or "auto")
        cluster.check(args.launcher)
        check_login(args.wandb)
    except ValueError as error:
        command_line.error(str(error))
    return run_suites(suites, args.dry, args.ready)


def numbers(text: str) -> list[int]:
    """The numbers of a text such as '20 100'."""
    words = text.replace(",", " ").split()
    if not all(word.isdecimal() for word in words):
        raise ValueError(f"--steps {text}: whole numbers are expected, such as '20 100'")
    return [int(word) for word in words]


@dataclass
class Planned:
    """A suite with its jobs and their errors."""

    suite: Suite
    jobs: Sequence[Job]
    errors: list[str]


def run_suites(suites: Sequence[Suite], dry: bool = False, ready: bool = False) -> int:
    """Run what is not finished, one suite after the other, and write their tables and figures.

    Args:
        dry: only print the plan.
        ready: run the suites that lack nothing, even if others do.

    Returns:
        the exit code: 0; 1 if anything failed or was left out; 2 if a suite has errors, and nothing was begun; 130 if
        it was interrupted.
    """
    plans = [Planned(suite, *engine.plan_and_check(partial(plan_within, suite))) for suite in suites]
    errors = list(dict.fromkeys(error for planned in plans for error in planned.errors))
    if dry:
        show(plans, errors)
        return 2 if errors else 0
    able = [planned for planned in plans if not planned.errors]
    if errors and not (ready and able):
        return report_errors(errors)
    failures = [f"{p.suite.name}: not begun: {p.errors[0]}" for p in plans if p.errors]
    try:
        for planned in able:
            name = f"{planned.suite.name}: " if len(plans) > 1 else ""
            failures += [name + line for line in run_jobs(planned.suite, planned.jobs)]
    except KeyboardInterrupt:
        print(f"stopped; the same command goes on: {planned.suite.out}", file=sys.stderr)
        return 130
    for line in failures:
        print(f"failed: {line}", file=sys.stderr)
    if failures:
        print(f"{len(failures)} failed; the same command tries them again", file=sys.stderr)
    return 1 if failures else 0


def plan_within(suite: Suite) -> list[Job]:
    """The jobs of the suite, if its folder has no tables of more than these."""
    jobs = plan(suite)
    plan_report.check(suite, jobs)
    return jobs


def run_jobs(suite: Suite, jobs: Sequence[Job]) -> list[str]:
    """Run the jobs, and write tables and figures. Returns the failures, a line each."""
    try:
        suite.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return [f"{suite.out}: {error}"]
    failures = engine.run(jobs, f"suite {suite.name}", suite.workers, suite.device, suite.launcher, suite.out / "queue")
    written = draw(suite, jobs, failures)
    print(f"{suite.out}: {', '.join(written)}")
    return failures


def show(plans: Sequence[Planned], errors: Sequence[str]) -> None:
    """Print the plan of each suite, and the total of several."""
    for planned in plans:
        if len(plans) > 1:
            print(f"## {planned.suite.name}: {planned.suite.out}\n")
        print(plan_report.describe(planned.jobs, planned.errors))
    if len(plans) > 1:
        print(
            f"## all {len(plans)} suites\n\n{plan_report.total([job for p in plans for job in p.jobs], errors)}", end=""
        )


def draw(suite: Suite, jobs: Sequence[Job], failures: list[str]) -> list[str]:
    """Write tables and figures. Returns their names; one that fails is added to `failures`."""
    outcome, written = Outcome(suite, jobs), []
    for spec in [*suite.yaml.get("tables", ()), *suite.yaml.get("figures", ())]:
        try:
            written += call(spec, outcome)
        except Exception as error:
            if not failures:  # all results are there: this is a fault of the code
                traceback.print_exception(error)
            name = spec if isinstance(spec, str) else spec["_target_"]
            failures.append(f"{name}: {type(error).__name__}: {error}")
    if written:
        plan_report.record(suite, jobs)
    return written


def report_errors(errors: Sequence[str]) -> int:
    """Print the first error; a dry run lists them all."""
    more = f" (and {len(errors) - 1} more: --dry lists them)" if len(errors) > 1 else ""
    print(f"error: {errors[0].splitlines()[0]}{more}", file=sys.stderr)
    return 2
