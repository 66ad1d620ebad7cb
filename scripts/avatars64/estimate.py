"""What a sampler's guidance networks see: estimates of training faces by the prior, from noise of any strength.

    python scripts/avatars64/render.py train=40960 identities=2048   # the faces, once
    python scripts/avatars64/estimate.py train identities            # data/avatars64/<set>_estimates (not in git)

Each face gets its own t, uniform in 0..899, and its own noise, a function of (seed, index). Its estimate is the prior's
x0 at this t, clamped, 8 bit. A finished shard is left as it is, so a stopped command goes on. About 25 ms per face on
one CPU core.
"""

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from dsg import config
from dsg.arguments import Parser, exit_code
from dsg.avatars64.estimates import estimate_shard
from dsg.avatars64.faces import DATA, shards_of
from dsg.runs.prepare import build


def parse_args() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("sets", nargs="+", choices=("train", "identities"), help="train, identities")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the faces (data/avatars64)")
    parser.add_argument("--seed", type=int, default=0, help="of t and noise (0)")
    parser.add_argument("--model", nargs="+", default=[], metavar="KEY=VALUE", help="model.checkpoint=... and the like")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    shards = {name: shards_of(args.data / name) for name in args.sets}
    prior = build(config.load(["model=avatars64", *args.model]).model).load()
    for name, files in shards.items():
        folder = args.data / f"{name}_estimates"
        folder.mkdir(parents=True, exist_ok=True)
        for shard in tqdm(files, desc=name, unit="shard"):
            if not (folder / shard.name).exists():
                estimate_shard(prior, shard, folder / shard.name, args.seed)


if __name__ == "__main__":
    sys.exit(exit_code(main))
