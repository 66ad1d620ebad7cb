"""Tune the step size, guidance rate or whatever a sampler has to tune, for every method alike, on validation images.

    python scripts/tune.py --steps 10 50 --images 4 --tasks hdr  # changes rows of configs/tuned/avatars64.csv
    python scripts/tune.py --images 64 --seeds 3 --store results/tuning-64x3              # in full: docs/protocol.md
    python scripts/tune.py --steps 50 --tasks faceid style segmentation --trials 9        # more trials than there are
    python scripts/tune.py --steps 50 --tasks clip_text --images 10                       # there are 10 prompts
    python scripts/tune.py --model ffhq256 --data ~/ffhq-validation --samplers dps_dsg --out /tmp/tuned

Criterion: mean HaarPSI or PSNR over the same validation images and noise seeds; of semantic tasks the selector's score
of samples for validation references and prompts (it guides nothing and reports nothing). Every method gets as many
trials for each task and number of steps: five on a grid of factor 2, the rest where they help most: beyond the grid
while the best value is at its edge (up to four more than were asked for), then beside the best value. The choice is the
optimum of the quadratic through the best trial and its two neighbours, which is less jagged than the best trial. Each
trial is added to `results/tuning/<model>.csv` when it is done, its scores
per image to `<model>-images.csv`; a stopped search goes on from there. Rows that are not tuned stay as they are.
With --out, trials, curves and a copy of the tuned table go there, and configs/ is left alone. --store is another folder
of trials: a new one for a search of another size, or that of a suite, where only what is missing is searched:

    python scripts/tune.py --store results/tuning-benchmark --images 4 --trials 5 --tasks hdr --criterion psnr
"""

import argparse
import sys
from functools import partial
from pathlib import Path

from dsg.arguments import Parser, positive
from dsg.suites import cluster, engine
from dsg.suites.main import report_errors
from dsg.suites.plan_report import describe
from dsg.suites.tuning import TITLES
from dsg.suites.tuning_curves import draw
from dsg.suites.tuning_plan import RESULTS, copy_table, defaults, plan


def parse_args() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--model", default="avatars64")
    parser.add_argument("--steps", type=positive, nargs="+", default=[20, 100])
    parser.add_argument("--tasks", nargs="+", default=defaults()["tasks"])
    parser.add_argument("--samplers", nargs="+", help="default: configs/tuning.yaml")
    parser.add_argument("--criterion", choices=list(TITLES), help="default: haarpsi; of semantic tasks selector")
    parser.add_argument("--images", "--faces", type=positive, help="default of these three: configs/tuning.yaml")
    parser.add_argument("--seeds", type=positive, help="of the noise, per image")
    parser.add_argument("--trials", type=positive, help="per method, task and number of steps")
    parser.add_argument("--data", help="folder of validation images (default: the model's, configs/tuning.yaml)")
    parser.add_argument(
        "--out", type=Path, help="folder for all that is written (default: results/tuning, configs/tuned)"
    )
    parser.add_argument("--store", type=Path, help="folder of the trials (default: --out, or results/tuning)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=positive, help="processes (default: one per GPU)")
    parser.add_argument("--launcher", nargs="+", default=(), help="a job per search in a cluster's queue")
    parser.add_argument("--dry", action="store_true", help="print the plan, and run nothing")
    args = parser.parse_args()
    try:
        cluster.check(args.launcher)
    except ValueError as error:
        parser.error(str(error))
    return args


def main() -> int:
    args = vars(parse_args())
    dry, workers, launcher = (args.pop(name) for name in ("dry", "workers", "launcher"))
    jobs, errors = engine.plan_and_check(partial(plan, **args))
    if errors:
        return report_errors(errors)
    if dry:
        print(describe(jobs, errors), end="")
        return 0
    if args["out"] is not None:
        copy_table(args["model"], args["out"])
    try:
        failures = engine.run(jobs, "tuning", workers, args["device"], launcher, (args["out"] or RESULTS) / "queue")
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    out, known = args["out"] or RESULTS, jobs[0].trials
    if len(known.table):
        curves = [] if args["store"] else draw(known.table, args["model"], out)  # a suite draws its own figures
        print(f"{jobs[0].table}; {', '.join([str(known.path), *curves])}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
