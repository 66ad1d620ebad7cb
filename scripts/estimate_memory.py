"""Peak memory of a guided step of a full-size prior, without a GPU and without the checkpoint.

    python scripts/estimate_memory.py                          # ffhq256, imagenet256, sd14
    python scripts/estimate_memory.py --models ffhq256 --batch 16

Counted on fake tensors, not measured (`dsg/priors/memory.py`). A GPU needs somewhat more: CUDA's context, workspaces,
fragmentation. Models: sd14, and those with an ADM U-Net (ffhq256, imagenet256, avatars64).
"""

import sys
from collections.abc import Callable
from functools import partial

import pandas as pd
from tqdm import tqdm

from dsg.arguments import Parser, exit_code, positive
from dsg.config import load
from dsg.priors.memory import adm_step_gib, sd14_step_gib

SETTINGS = {"fp32": {}, "bf16": {"bf16": True}, "bf16, recomputing": {"bf16": True, "use_checkpoint": True}}


def step_of(model: str) -> Callable[..., float]:
    """GiB of a guided step, by batch size and settings.

    Raises:
        ValueError: there is no such model, or none that can be counted.
    """
    if model == "sd14":
        return sd14_step_gib
    config = load([f"model={model}"]).model
    if "unet" not in config:
        raise ValueError(f"--models {model}: sd14, or a model with an ADM U-Net (model.unet)")
    return partial(adm_step_gib, config.unet)


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--models", nargs="+", default=["ffhq256", "imagenet256", "sd14"])
    parser.add_argument("--batch", type=positive, nargs="+", default=[1, 4])
    args = parser.parse_args()
    steps = {model: step_of(model) for model in args.models}
    rows = []
    for model, batch in tqdm([(m, b) for m in args.models for b in args.batch], unit="row"):
        peaks = {f"{name} [GiB]": steps[model](batch, **s) for name, s in SETTINGS.items()}
        rows.append({"model": model, "batch": batch, **peaks})
    print(pd.DataFrame(rows).to_markdown(index=False, floatfmt=".1f"))


if __name__ == "__main__":
    sys.exit(exit_code(main, stopped="nothing is kept"))
