"""Speed and memory of the guided samplers.

    make benchmark                                            # the embedded prior, on the device there is
    python scripts/benchmark.py --model ffhq256 --batch 1 4 --bf16
    python scripts/benchmark.py --model ffhq256 --random --batch 4   # without the checkpoint: random weights, same cost

Every row runs in a fresh process: warm-up, then the median over `--repeats` steps in the middle of a 100-step run (on CUDA timed
with events). "outside network" is what of a step is not the prior's forward pass (and backward pass, where the host
takes its gradient through it); "noise" and "DSG over host" are timed on their own, because they drown in the spread of whole steps.
"""

import argparse
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pandas as pd
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from tqdm import tqdm

from dsg.checkpoints import REPOSITORY
from dsg.constraint import spherical_gaussian_step
from dsg.noise import ImageNoise
from dsg.priors.adm import ADMUNet
from dsg.results import write_text
from dsg.samplers import draws, reverse_step

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
            seconds = time.perf_counter() - before
        if i >= warm_up:
            times.append(seconds)
    return statistics.median(times)


def peak_memory(device: torch.device) -> float:
    """MiB so far: allocated by torch on CUDA, resident in the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def network_only(prior, x: torch.Tensor, t: int, gradient_at: str | None) -> None:
    """The passes through the network that a step of this kind cannot do without."""
    with torch.set_grad_enabled(gradient_at == "x_t"):
        x = x.detach().requires_grad_(gradient_at == "x_t")
        eps, _ = prior.predict(x, t)
    if gradient_at == "x_t":
        torch.autograd.grad(eps, x, torch.ones_like(eps))


def measure(name: str, batch: int, overrides: list[str], device_name: str, repeats: int) -> dict:
    """One row of the table, in this process."""
    device = torch.device(device_name)
    with initialize_config_dir(str(REPOSITORY / "configs"), version_base="1.3"):
        config = compose("config", [*overrides, f"sampler={name}", "sampler.steps=100", "sampler.travel.repeats=1"])
    prior, task, sampler = instantiate(config.model).to(device), instantiate(config.task), instantiate(config.sampler)
    idle = peak_memory(device)
    ids = [str(i) for i in range(batch)]
    noise = ImageNoise(0, ids, [0] * batch, prior.shape, device, draws(sampler, prior.schedule))
    x = noise.start()
    condition = {k: v.to(device) for k, v in task.measure(torch.zeros(batch, *prior.shape), ids, 0).items()}
    steps = prior.schedule.steps(100, "linspace")[20:]
    step, following = steps[0], iter(steps)
    seconds = median_seconds(
        lambda: reverse_step(prior, task, condition, sampler, x, next(following), 0, noise), device, repeats
    )
    peak = peak_memory(device)
    network = median_seconds(lambda: network_only(prior, x, step.t, sampler.gradient_at), device, repeats)
    drawing = median_seconds(lambda: noise(0, repeat=1), device, 20)  # not in the order: drawn on the spot
    spherical = median_seconds(lambda: spherical_gaussian_step(x, 0.1 * x, x, 0.1, 0.2), device, 50)
    additive = median_seconds(lambda: x - 0.5 * x, device, 50)
    return {
        "sampler": name,
        "batch": batch,
        "image-steps/s": batch / seconds,
        "ms/step": 1000 * seconds,
        "peak MiB": peak,
        "of it run MiB": peak - idle,
        "outside network": max(1 - network / seconds, 0.0),
        "noise": drawing / seconds,
        "DSG over host": (spherical - additive) / seconds if name.endswith("_dsg") else float("nan"),
    }


@contextmanager
def random_checkpoint(model: str):
    """A temporary checkpoint of the model's network with random weights: the same cost, no download."""
    with initialize_config_dir(str(REPOSITORY / "configs"), version_base="1.3"):
        unet = compose("config", [f"model={model}"]).model.unet
    with tempfile.TemporaryDirectory() as folder:
        torch.save(ADMUNet(**unet).state_dict(), Path(folder) / "random.pt")
        yield Path(folder) / "random.pt"


def run_all(args: argparse.Namespace, overrides: list[str]) -> list[dict]:
    jobs = [(name, batch) for batch in args.batch for name in args.samplers]
    rows = []
    for name, batch in tqdm(jobs, desc=f"benchmark {args.model}", unit="row"):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
            rows.append(fresh.submit(measure, name, batch, overrides, args.device, args.repeats).result())
    return rows


def table(rows: list[dict]) -> str:
    frame = pd.DataFrame(rows)
    for name in ("outside network", "noise", "DSG over host"):
        frame[name] = frame[name].map(lambda share: "" if share != share else f"{100 * share:.2f} %")
    return frame.to_markdown(index=False, floatfmt=".1f") + "\n"


def ratios(rows: list[dict]) -> str:
    """What people ask: DSG against its host, a batch against single images."""
    speed = pd.DataFrame(rows).set_index(["sampler", "batch"])["image-steps/s"]
    batches = sorted(speed.index.get_level_values("batch").unique())
    lines = [
        f"- {n} in batches of {batches[-1]}: {speed[n, batches[-1]] / speed[n, batches[0]]:.2f} times the images per second of "
        f"batches of {batches[0]}"
        for n in ("dps", "dps_dsg")
        if len(batches) > 1 and (n, batches[-1]) in speed.index
    ]
    lines += [
        f"- {h}_dsg: {speed[h + '_dsg', batches[-1]] / speed[h, batches[-1]]:.2f} times the speed of {h}"
        for h in ("dps", "freedom", "mpgd")
        if {(h, batches[-1]), (h + "_dsg", batches[-1])} <= set(speed.index)
    ]
    return "\n".join(lines) + "\n"


def describe(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="avatars64")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=SAMPLERS)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--random", action="store_true", help="random weights, written to a temporary file")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "results/benchmark")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    device = torch.device(args.device)
    overrides = [f"model={args.model}", f"model.bf16={args.bf16}", f"model.compile={args.compile}"]
    with random_checkpoint(args.model) if args.random else nullcontext(None) as checkpoint:
        overrides += [f"model.checkpoint={checkpoint}"] if checkpoint else []
        rows = run_all(args, overrides)
    text = f"# {args.model}, {describe(device)}, torch {torch.__version__}\n\n{table(rows)}\n{ratios(rows)}"
    print(text)
    args.out.mkdir(parents=True, exist_ok=True)
    write_text(args.out / f"{args.model}-{device.type}{'-bf16' * args.bf16}{'-compile' * args.compile}.md", text)


if __name__ == "__main__":
    main()
