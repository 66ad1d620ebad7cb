"""One run: a prior, a task, a sampler, a set of images.   python run.py --help

argv -> dsg.cli.parse -> dsg.config.load_with_sources -> dsg.runs.main.run_one, or dsg.suites.sweep.sweep (-m).
"""

import sys
from collections.abc import Sequence

from dsg.cli import CommandLine, help_text, parse
from dsg.files import first_line

STOPPED = 130  # by Ctrl-C


def run(line: CommandLine) -> int:
    """What the command line asks for. Returns the exit code.

    The imports stand where they are needed: torch takes seconds, which --help does not need.
    """
    if line.help:
        print(help_text(), end="")
        return 0
    if line.multirun and not line.shows_config:
        from dsg.suites import cluster
        from dsg.suites.sweep import sweep

        cluster.check(line.launcher)
        return sweep(line.overrides, line.config_dirs, line.workers, line.launcher)

    from dsg.config import load_with_sources, to_yaml

    config, sources = load_with_sources(line.overrides, line.config_dirs)
    if line.shows_config:
        print(to_yaml(config, sources), end="")
        return 0
    for note in sources.notes:
        print(f"note: {note}", file=sys.stderr)

    from dsg.runs.main import run_one

    return run_one(config, sources)


def main(arguments: Sequence[str]) -> int:
    try:
        return run(parse(arguments))
    except (ValueError, OSError) as error:
        print(f"error: {first_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return STOPPED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
