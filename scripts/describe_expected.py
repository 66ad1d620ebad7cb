"""Write docs/expected.md, published figures to check a run against, from dsg/report/assets/expected.csv.

python scripts/describe_expected.py
"""

from dsg.arguments import Parser
from dsg.checkpoints import REPOSITORY
from dsg.report.expected import page
from dsg.runs.results import write_text


def main() -> None:
    Parser(__doc__).parse_args()
    write_text(REPOSITORY / "docs/expected.md", page())
    print(REPOSITORY / "docs/expected.md")


if __name__ == "__main__":
    main()
