"""One cell: a prior, a task, a sampler, a set of images.

python run.py                                             # avatars64, random inpainting, DPS with DSG
python run.py task=super_resolution sampler=mpgd sampler.steps=50
python run.py -m task=inpaint,gaussian_deblur sampler=dps,dps_dsg
"""

import json
import sys

import hydra
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from tqdm import tqdm

from dsg.prepare import prepare
from dsg.results import Results
from dsg.runner import Cell, evaluations, pending, run_cell
from dsg.tracking import log_cell

exit_codes = [0]  # of the cells of a sweep: one that fails does not stop the others


def run(cell: Cell, results: Results) -> int:
    """Restore what is not finished, report and log it. Returns the exit code."""
    todo = len(pending(cell, results))
    if todo == 0:
        print(f"finished already: {results.out}")
    description = f"{cell.task.name} {cell.sampler.name}"
    with tqdm(total=todo * evaluations(cell), unit="step", desc=description, disable=todo == 0) as bar:
        failures = run_cell(cell, results, bar.update)
    summary = json.loads((results.out / "metrics.json").read_text())
    if summary["images"]:
        log_cell(results, summary, again=todo > 0)
    if todo and summary["images"]:
        report(summary)
    print(f"{summary['images']} images: {results.out}")
    for f in failures:
        print(f"failed: {f.id}: not finite at step {f.step_index} (t={f.t})", file=sys.stderr)
    return 1 if failures else 0


def report(summary: dict) -> None:
    for name, m in summary["measures"].items():
        if m["mean"] is not None:
            print(f"{name:>20} {m['mean']:8.4f}  [{m['low']:.4f}, {m['high']:.4f}]")
    print(f"{'seconds per image':>20} {summary['seconds_per_image']:8.2f}")


@hydra.main(version_base="1.3", config_path="configs", config_name="config")
def main(config: DictConfig) -> None:
    try:
        cell, results = prepare(config)
    except (ValueError, OSError, OmegaConfBaseException) as error:
        print(f"error: {error}", file=sys.stderr)
        exit_codes.append(2)
    else:
        if config.data.limit == len(cell.pictures):
            print(f"data.limit={config.data.limit}: the first {config.data.limit} (null: all)")
        exit_codes.append(run(cell, results))


if __name__ == "__main__":
    main()
    sys.exit(max(exit_codes))
