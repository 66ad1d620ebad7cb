"""A page in the browser that restores a photograph: make demo.

python scripts/demo.py            http://127.0.0.1:7860, for this machine only
"""

import sys

from dsg.arguments import Parser, exit_code, positive


def main() -> int:
    parser = Parser(__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets everybody in your network use it")
    parser.add_argument("--port", type=positive, default=7860)
    parser.add_argument("--no-browser", action="store_true", help="do not open one")
    options = parser.parse_args()

    def work() -> None:
        try:
            from dsg.demo import launch
        except ModuleNotFoundError as error:
            raise ValueError(f"{error.name} is missing: pip install -e '.[demo]'") from None
        launch(options.host, options.port, not options.no_browser)

    return exit_code(work, "nothing was kept")


if __name__ == "__main__":
    sys.exit(main())
