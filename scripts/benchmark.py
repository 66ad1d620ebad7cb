"""Speed and memory of the guided samplers.

    make benchmark                                            # the embedded prior, on the device there is
    python scripts/benchmark.py --model ffhq256 --batch 1 4 --bf16
    python scripts/benchmark.py --model ffhq256 --random --batch 4   # without the checkpoint: random weights, same cost

Every row runs in a fresh process: warm-up, then the median over `--repeats` steps in the middle of a 100-step run (on
CUDA timed with events). Three columns are shares of a step. "outside network": what is not the prior's forward pass, or
its backward pass where the gradient is taken through it. "noise": drawing it. "DSG over its base method": the spherical
step less a subtraction. The last two are timed on their own, because they drown in the spread of whole steps.
"""

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from itertools import cycle
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from dsg.arguments import Parser, exit_code, positive
from dsg.config import load
from dsg.constraint import spherical_gaussian_step
from dsg.files import REPOSITORY, first_line, write_text
from dsg.noise import ImageNoise
from dsg.priors.adm import ADMUNet
from dsg.runs.batches import peak_memory
from dsg.runs.prepare import build, pick_device

DSG_SHARE = "DSG over its base method"
SAMPLERS = ("unconditional", "dps", "dps_dsg", "freedom", "freedom_dsg", "mpgd", "mpgd_dsg")


def median_seconds(run: Callable[[], object], device: torch.device, repeats: int, warm_up: int = 2) -> float:
    """Median time of `run`, by CUDA events where there are any."""
    times = []
    for i in range(warm_up + repeats):
        if device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            run()
            end.record()
            end.synchronize()
            seconds = start.elapsed_time(end) / 1000
        else:
            before = time.perf_counter()
            run()
            if device.type != "cpu":
                torch.accelerator.synchronize()
            seconds = time.perf_counter() - before
        if i >= warm_up:
            times.append(seconds)
    return statistics.median(times)


def network_only(prior, x: torch.Tensor, t: int, backward: bool) -> None:
    """The passes through the network that a step of this kind cannot do without."""
    with torch.set_grad_enabled(backward):
        x = x.detach().requires_grad_(backward)
        eps = prior.predict(x, t).eps
    if backward:
        torch.autograd.grad(eps, x, torch.ones_like(eps))


def measure(name: str, batch: int, overrides: list[str], device_name: str, repeats: int) -> dict:
    """One row of the table, in this process."""
    device = torch.device(device_name)
    config = load([*overrides, f"sampler={name}", "sampler.steps=100", "sampler.travel.repeats=1"])
    prior, task, sampler = build(config.model).to(device), build(config.task), build(config.sampler)
    idle = peak_memory(device) * 1024
    ids = [str(i) for i in range(batch)]
    noise = ImageNoise(0, ids, [0] * batch, prior.shape, device, sampler.draws(prior.schedule))
    x = noise.start()
    degraded = task.degrade(torch.zeros(batch, *prior.image_shape), ids, 0)
    condition = {k: v.to(device) for k, v in degraded.items()}
    steps = prior.schedule.steps(100, sampler.spacing)[20:]
    step, following = steps[0], cycle(steps)
    seconds = median_seconds(
        lambda: sampler.reverse_step(prior, task, condition, x, next(following), 0, noise), device, repeats
    )
    peak = peak_memory(device) * 1024
    network = median_seconds(lambda: network_only(prior, x, step.t, sampler.through_network), device, repeats)
    drawing = median_seconds(lambda: noise(0, repeat=1), device, 20)  # not in the order: drawn on the spot
    spherical = median_seconds(lambda: spherical_gaussian_step(x, 0.1 * x, x, 0.1, 0.2), device, 50)
    subtraction = median_seconds(lambda: x - 0.5 * x, device, 50)
    return {
        "sampler": name,
        "base method": sampler.base_method or "",
        "batch": batch,
        "image-steps/s": batch / seconds,
        "ms/step": 1000 * seconds,
        "peak MiB": peak,
        "of it run MiB": peak - idle,
        "outside network": max(1 - network / seconds, 0.0),
        "noise": drawing / seconds,
        DSG_SHARE: (spherical - subtraction) / seconds if sampler.spherical else float("nan"),
    }


@contextmanager
def random_checkpoint(model: str):
    """A temporary checkpoint of the model's network with random weights: the same cost, no download."""
    config = load([f"model={model}"]).model
    if "unet" not in config:
        raise ValueError(f"--random: model={model} has no ADM U-Net (model.unet)")
    with tempfile.TemporaryDirectory() as folder:
        torch.save(ADMUNet(**config.unet).state_dict(), Path(folder) / "random.pt")
        yield Path(folder) / "random.pt"


def run_all(args: argparse.Namespace, overrides: list[str], device: torch.device) -> tuple[list[dict], list[str]]:
    """The rows; what kept others from being measured, a line each."""
    jobs = [(name, batch) for batch in args.batch for name in args.samplers]
    rows, failures = [], []
    for name, batch in tqdm(jobs, desc=f"benchmark {args.model}", unit="row", disable=None):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
            try:
                rows.append(fresh.submit(measure, name, batch, overrides, str(device), args.repeats).result())
            except (ValueError, OSError, RuntimeError) as error:  # no memory, or a process that was killed for it
                failures.append(f"{name} in batches of {batch}: {first_line(error)}")
    return rows, failures


def table(rows: list[dict]) -> str:
    frame = pd.DataFrame(rows)
    for name in ("outside network", "noise", DSG_SHARE):
        frame[name] = frame[name].map(lambda share: "" if share != share else f"{100 * share:.2f} %")
    return frame.to_markdown(index=False, floatfmt=".1f") + "\n"


def ratios(rows: list[dict]) -> str:
    """What people ask: DSG against its base method, a batch against single images."""
    frame = pd.DataFrame(rows)
    speed = frame.set_index(["sampler", "batch"])["image-steps/s"]
    few, many, measured = frame["batch"].min(), frame["batch"].max(), set(speed.index)
    lines = [
        f"- {name} in batches of {many}: {speed[name, many] / speed[name, few]:.2f} times the images per second of "
        f"batches of {few}"
        for name in ("dps", "dps_dsg")
        if few < many and {(name, few), (name, many)} <= measured
    ]
    lines += [
        f"- {name}: {speed[name, many] / speed[base, many]:.2f} times the speed of {base}"
        for name, base in frame[["sampler", "base method"]].drop_duplicates().itertuples(index=False)
        if {(name, many), (base, many)} <= measured
    ]
    return "\n".join(lines) + "\n"


def describe(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"


def options() -> Parser:
    parser = Parser(__doc__)
    parser.add_argument("--model", default="avatars64")
    parser.add_argument("--batch", type=positive, nargs="+", default=[1, 4, 16])
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=SAMPLERS)
    parser.add_argument("--repeats", type=positive, default=10)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--random", action="store_true", help="random weights, written to a temporary file")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "results/benchmark", help="folder of the report")
    parser.add_argument("--overwrite", action="store_true", help="replace a report that is there")
    return parser


def benchmark(args: argparse.Namespace, device: torch.device) -> tuple[str, int]:
    """The report, and how many rows it lacks.

    Raises:
        ValueError: it lacks all of them.
    """
    overrides = [f"model={args.model}", *["model.bf16=true"] * args.bf16, *["model.compile=true"] * args.compile]
    with random_checkpoint(args.model) if args.random else nullcontext(None) as checkpoint:
        overrides += [f"model.checkpoint={checkpoint}"] if checkpoint else []
        build(load(overrides).model)  # what is wrong with it is said before the first process starts
        rows, failures = run_all(args, overrides, device)
    if not rows:
        raise ValueError(f"nothing was measured: {failures[0]}")
    lacking = "".join(f"- not measured: {line}\n" for line in failures)
    head = f"# {args.model}, {describe(device)}, torch {torch.__version__}"
    return f"{head}\n\n{table(rows)}\n{ratios(rows)}{lacking}", len(failures)


def main() -> int:
    args = options().parse_args()
    device = pick_device(args.device)
    file = args.out / f"{args.model}-{device.type}{'-bf16' * args.bf16}{'-compile' * args.compile}.md"
    kept = file.exists() and not args.overwrite
    if kept:
        print(f"note: {file} is there already, and stays as it is: --overwrite replaces it", file=sys.stderr)
    args.out.mkdir(parents=True, exist_ok=True)
    text, lacking = benchmark(args, device)
    print(text)
    if not kept:
        write_text(file, text)
    return 1 if lacking else 0


if __name__ == "__main__":
    sys.exit(exit_code(main, stopped="nothing is kept"))
