"""Evaluation sets in data/, from a data set's folder, .zip or .tar (data/README.md).

    python scripts/prepare_data.py ffhq images1024x1024.zip
    python scripts/prepare_data.py imagenet ILSVRC2012_img_val.tar --protocol released --out data/imagenet256_released
    python scripts/prepare_data.py ffhq --check

The first 1,000 images, 256 px, lossless PNG: the central square by an antialiased filter, or, with --protocol released,
the whole image squashed to a square by a bilinear filter, as the released codes do. manifest.csv has a hash of each
image's pixels. Call it again to go on where it stopped.
"""

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from dsg.arguments import Parser, exit_code, positive
from dsg.checkpoints import REPOSITORY
from dsg.datasets import DATASETS, PROTOCOLS, candidates, choose, damaged, opened, read_manifest, write_images
from dsg.files import write_text


def main() -> int | None:
    parser = Parser(__doc__)
    parser.add_argument("dataset", choices=list(DATASETS))
    parser.add_argument("source", nargs="?", type=Path, help="folder, .zip or .tar")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="crop")
    parser.add_argument("--size", type=positive, default=256, help="px")
    parser.add_argument("--count", type=positive, default=None, help="images (1000)")
    parser.add_argument("--out", type=Path, help="data/<dataset><size>[_released]")
    parser.add_argument("--ids", type=Path, help="list of ids, a line each (data/ids/<dataset>.txt)")
    parser.add_argument("--within", default="", help="only files whose path contains this, such as images1024x1024")
    parser.add_argument("--check", action="store_true", help="prepare nothing; check the images against the manifest")
    args = parser.parse_args()
    suffix = "_released" if args.protocol == "released" else ""
    out = args.out or REPOSITORY / "data" / f"{args.dataset}{args.size}{suffix}"
    if args.check:
        return check(out)
    if args.source is None:
        parser.error("which folder, .zip or .tar?")
    prepare(args, out)
    return 0


def prepare(args: argparse.Namespace, out: Path) -> None:
    dataset = DATASETS[args.dataset]
    count, listed = args.count or dataset.count, args.ids or REPOSITORY / "data" / "ids" / f"{dataset.name}.txt"
    if args.ids is not None and not args.ids.is_file():
        raise ValueError(f"--ids {args.ids}: no such file")
    ids = listed.read_text(encoding="utf-8").split() if listed.is_file() else None
    with opened(args.source) as entries:
        names = candidates(entries, dataset, args.within)
        chosen = choose(entries, names, dataset, ids, count)
        with tqdm(total=len(chosen), unit="image", desc=dataset.name) as bar:
            write_images(
                entries, {key: names[key] for key in chosen}, out, dataset.name, args.protocol, args.size, bar.update
            )
    if ids is None and count == dataset.count:
        listed.parent.mkdir(parents=True, exist_ok=True)
        write_text(listed, "".join(f"{key}\n" for key in chosen))
        print(f"{listed}: the ids of this set; commit it, and others get the same images")
    print(f"{out}: {len(chosen)} images")


def check(out: Path) -> int:
    rows, wrong = read_manifest(out), damaged(out)
    if not rows:
        print(f"{out}: no manifest there", file=sys.stderr)
        return 1
    for key in wrong:
        print(f"{out / key}.png is missing or damaged", file=sys.stderr)
    print(f"{out}: {len(rows) - len(wrong)} of {len(rows)} images are as the manifest has them")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(exit_code(main))
