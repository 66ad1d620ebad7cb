"""A W&B report of the runs of a suite: DSG against its base methods by task and steps, quality against compute.

    python scripts/wandb_report.py benchmark_small --dry                     # what would be in it
    python scripts/wandb_report.py benchmark_small --project dsg --entity my-team   # saved there; prints its address

The runs are logged by `wandb.mode=online`, or offline and then sent: `wandb sync <run folder>/wandb/offline-run-*`.
Local runs of the suite say what tasks, steps and metrics there are. Needs `pip install -e ".[report]"`.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from functools import partial

from dsg.arguments import Parser, exit_code
from dsg.files import first_line
from dsg.suites.report.entries import read_entries
from dsg.suites.report.main import folders_of, title_of


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 0, 1 if W&B would not save it, 2 for bad input."""
    return exit_code(partial(work, parser().parse_args(arguments)), stopped="the same command begins anew")


def work(args: Namespace) -> int:
    """Make the report, and save it unless --dry."""
    try:
        from dsg.suites.report import workspace
    except ModuleNotFoundError as error:
        print(f'error: {error.name} is missing: pip install -e ".[report]"', file=sys.stderr)
        return 2
    folders = [folder for word in args.folders for folder in folders_of(word)]
    entries = read_entries(folders)[0]
    groups = {entry.group for entry in entries if entry.is_run}
    group = args.group or (groups.pop() if len(groups) == 1 else None)
    title = args.title or f"DSG against its base methods: {title_of(folders)}"
    made = workspace.report(entries, title, args.project, args.entity, group)
    print(workspace.outline(made))
    return 0 if args.dry else save(made)


def save(made) -> int:
    try:
        made.save()
    except Exception as error:  # wandb raises whatever its parts raise
        print(f"error: W&B did not save it: {first_line(error)}", file=sys.stderr)
        return 1
    print(made.url)
    return 0


def parser() -> Parser:
    made = Parser(__doc__)
    made.add_argument("folders", nargs="+", metavar="FOLDER", help="of runs, or above them; or the name of a suite")
    made.add_argument("--project", default="dsg", help="of W&B (dsg)")
    made.add_argument("--entity", default="", help="of W&B: a user or team; by default that of the login")
    made.add_argument("--group", help="of the runs, as they were logged; by default that of the local runs")
    made.add_argument("--title", help="of the report")
    made.add_argument("--dry", action="store_true", help="print what would be in it, save nothing")
    return made


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
