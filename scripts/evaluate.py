"""Metrics of finished runs, from their saved images.

python scripts/evaluate.py results/ffhq256 --metrics fid kid lpips_vgg --set fid.reference=data/ffhq256
python scripts/evaluate.py RUN_A RUN_B                     # B minus A, image by image
python scripts/evaluate.py RUN_A RUN_B --margin psnr=0.2   # are they equivalent within 0.2 dB?
python scripts/evaluate.py --statistics FOLDER --to ffhq.npz   # of a reference set, for FID and KID
"""

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import yaml
from tqdm import tqdm

from dsg.arguments import Parser, exit_code, positive, positive_number
from dsg.layers import check_config_dirs
from dsg.runs.evaluation import add_metrics, check_names, find_runs
from dsg.runs.paired import compare
from dsg.runs.prepare import pick_device
from dsg.runs.results import OWNER


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse(arguments)
    if args.statistics:
        return exit_code(partial(save, args), stopped="nothing is kept")
    return exit_code(partial(evaluate, args))


def evaluate(args: argparse.Namespace) -> int:
    """Add metrics to runs, and compare them, as asked. Returns 1 if one of them failed, else 0."""
    options = nested(args.set)
    margins = {name: margin(name, value) for name, value in map(pair, args.margin)}
    check_config_dirs(args.config_dir)
    check_names(args.metrics, options, args.config_dir)
    runs = args.runs if args.paired else find_runs(args.runs)
    failed = False
    for out in tqdm(runs, unit="run", disable=len(runs) < 2 or None) if args.metrics else ():
        failed |= not add(out, args, options)
    if args.paired:
        failed |= not show_differences(*runs, margins)
    return int(failed)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("runs", nargs="*", type=Path, help="folders of runs, or folders above them")
    parser.add_argument("--metrics", nargs="+", default=[], help="names of configs/metric/, such as fid kid lpips_vgg")
    parser.add_argument("--set", nargs="+", default=[], metavar="METRIC.OPTION=VALUE", help="options of the metrics")
    parser.add_argument("--config-dir", action="append", default=[], help="folder of your own YAML files")
    parser.add_argument("--paired", action="store_true", help="compare two runs (the default without --metrics)")
    parser.add_argument("--margin", nargs="+", default=[], metavar="METRIC=NUMBER", help="equivalent if within +- this")
    parser.add_argument("--statistics", type=Path, metavar="FOLDER", help="save the statistics of a folder of images")
    parser.add_argument("--to", type=Path, metavar="FILE.npz")
    parser.add_argument("--size", type=positive, help="px: of the central square of each image (default: as they are)")
    parser.add_argument("--resize", default="tensorflow", help="to the network's 299 px: tensorflow or pytorch")
    args = parser.parse_args(arguments)
    args.paired |= not args.metrics and len(args.runs) == 2
    if args.statistics and args.to is None:
        parser.error("--statistics needs --to FILE.npz")
    if not args.statistics and not args.runs:
        parser.error("which runs?")
    if not args.statistics and not args.metrics and not args.paired:
        parser.error("--metrics, or two runs to compare")
    if args.paired and (len(args.runs) != 2 or not all((run / OWNER).is_file() for run in args.runs)):
        parser.error(f"--paired compares two folders of runs ({OWNER} is in each)")
    return args


def add(out: Path, args: argparse.Namespace, options: dict) -> bool:
    """Add the metrics to one run; whether that went well."""
    try:
        reasons = add_metrics(out, args.metrics, options, args.config_dir)
    except (ValueError, OSError) as error:
        print(f"{out}: {error}", file=sys.stderr)
        return False
    for name, reason in reasons.items():
        print(f"{out}: no {name}: {reason}", file=sys.stderr)
    show(out, [name for name in args.metrics if name not in reasons])
    return not reasons  # what was asked for by name


def show(out: Path, names: Sequence[str]) -> None:
    summary = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    for name in names:
        one = summary["metrics"].get(name) or summary["set_metrics"][name]
        interval = f"  [{one['low']:.4f}, {one['high']:.4f}]" if one.get("low") is not None else ""
        value = one.get("mean", one.get("value"))
        print(f"{out}: {name} {'none' if value is None else f'{value:.4f}'}{interval}")
        for key in set(one) - {"mean", "low", "high", "value"}:
            print(f"    {key}: {one[key]}")


def show_differences(first: Path, second: Path, margins: dict[str, float]) -> bool:
    try:
        differences = compare(first, second, margins)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return False
    print(f"A = {first}\nB = {second}\n{'metric':22}{'A':>10}{'B':>10}{'B - A':>10}  95 % interval         images")
    for one in differences:
        found = one.difference
        interval = f"[{found.low:.4f}, {found.high:.4f}]" if found.images > 1 else ""
        numbers = f"{one.first:10.4f}{one.second:10.4f}{found.difference:+10.4f}"
        print(f"{one.metric:22}{numbers}  {interval:22}{found.images:6}  {found.verdict}")
    return True


def save(args: argparse.Namespace) -> int:
    from dsg.metrics.inception import Inception, save_statistics

    inception = Inception(resize=args.resize, device=pick_device("auto"))
    if reason := inception.missing():
        raise ValueError(f"no Inception-v3: {reason}")
    if args.to.exists():
        raise ValueError(f"{args.to} is there already")
    args.to.parent.mkdir(parents=True, exist_ok=True)
    save_statistics(args.statistics, args.size, inception, args.to)
    print(f"{args.to}: statistics of {args.statistics}")
    return 0


def nested(words: Sequence[str]) -> dict[str, dict]:
    """fid.reference=x -> {fid: {reference: x}}; values are YAML."""
    options: dict[str, dict] = {}
    for name, value in map(pair, words):
        metric, dot, option = name.partition(".")
        if not dot or not option:
            raise ValueError(f"--set {name}={value}: expected METRIC.OPTION=VALUE")
        try:
            options.setdefault(metric, {})[option] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ValueError(f"--set {name}={value}: {value} cannot be read as YAML") from None
    return options


def margin(name: str, value: str) -> float:
    try:
        return positive_number(value)
    except argparse.ArgumentTypeError as error:
        raise ValueError(f"--margin {name}={error}") from None


def pair(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not equals:
        raise ValueError(f"{word}: expected NAME=VALUE")
    return name, value


if __name__ == "__main__":
    sys.exit(main())
