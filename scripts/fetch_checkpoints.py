"""Fetch pretrained weights into checkpoints/ (what there is: checkpoints/README.md).

    python scripts/fetch_checkpoints.py ffhq256 lpips_vgg   # or: all
    python scripts/fetch_checkpoints.py --check             # what is there, what is missing, whether hashes hold

A file appears under its name only when whole, checked and readable. Its size and SHA-256 are written beside it
(`<file>.json`) at the first fetch; a later call checks the file against them. Any served copy of checkpoints/ is a
mirror: `--mirror https://...`, or the variable DSG_MIRROR.
"""

import os
import sys
from pathlib import Path

from dsg.arguments import Parser
from dsg.downloads import checked, fetch
from dsg.weights import CHECKPOINTS, read_record, sources

SOURCES = sources()


def check(names: list[str], folder: Path) -> int:
    """Print what is there. Returns 1 if something is not what was published or recorded."""
    wrong = False
    for name in names:
        source = SOURCES[name]
        path = folder / source.file
        try:
            recorded = read_record(path)
            if not path.exists():
                size = source.size or source.about
                state = f"missing ({size / 1e6:,.0f} MB, for {source.needed_for})"
            else:
                found = checked(path, source, path)
                known = "as published" if source.sha256 else "as recorded" if recorded else "not recorded yet"
                state = f"{known} ({found['bytes']} bytes, SHA-256 {found['sha256'][:16]})"
        except (OSError, ValueError) as error:
            wrong, state = True, f"WRONG: {error}"
        print(f"{name:14} {source.file:42} {state}")
    return int(wrong)


def main() -> int:
    parser = Parser(__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"{', '.join(SOURCES)}; all")
    parser.add_argument("--check", action="store_true", help="fetch nothing; check what is there")
    parser.add_argument("--folder", type=Path, default=CHECKPOINTS)
    parser.add_argument(
        "--source", help="another source for the (single) name: a URL, for instance of a mirror, or hub:<owner>/<name>"
    )
    mirror = os.environ.get("DSG_MIRROR")
    parser.add_argument("--mirror", default=mirror, help="http(s) address of a copy of checkpoints/, for all names")
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in (*SOURCES, "all")]
    if unknown:
        parser.error(f"unknown checkpoint {unknown[0]!r}: one of {', '.join(SOURCES)}, all")
    names = list(SOURCES) if "all" in args.names or (args.check and not args.names) else args.names
    if not names:
        parser.error(f"which? {', '.join(SOURCES)}, all")
    if args.source and len(names) > 1:
        parser.error("--source is for one name")
    if args.folder.exists() and not args.folder.is_dir():
        parser.error(f"--folder {args.folder}: no folder")
    if args.check:
        return check(names, args.folder)
    failed = False
    for name in names:
        try:
            print(f"{name}: {fetch(SOURCES[name], args.folder, args.source, args.mirror)}")
        except (OSError, ValueError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed = True
        except KeyboardInterrupt:
            print(f"{name}: stopped", file=sys.stderr)
            return 130
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
