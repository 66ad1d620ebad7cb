"""A suite on the command line: plan, check, run, tables and figures, exit code."""

import sys

from dsg.benchmark import engine
from dsg.benchmark.dry import describe
from dsg.benchmark.jobs import Job
from dsg.benchmark.plan import plan
from dsg.benchmark.suite import Outcome, Suite, call


def run_suite(suite: Suite, dry: bool = False) -> int:
    """Run what is not finished, and write the suite's tables and figures.

    Returns:
        the exit code: 0; 1 if anything failed, whatever else was done; 2 if something is wrong with the suite, and nothing
        was begun; 130 if it was interrupted.
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


def tell(errors: list[str]) -> int:
    for error in errors:
        print(f"error: {error.splitlines()[0]}", file=sys.stderr)
    return 2
