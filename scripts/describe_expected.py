"""Write docs/expected.md, published figures to check a run against, from dsg/suites/report/assets/expected.csv.

python scripts/describe_expected.py
"""

from dsg.arguments import Parser
from dsg.checkpoints import REPOSITORY
from dsg.files import write_text
from dsg.suites.report.expected import page


def main() -> None:
    Parser(__doc__).parse_args()
    write_text(REPOSITORY / "docs/expected.md", page())
    print(REPOSITORY / "docs/expected.md")


if __name__ == "__main__":
    main()
