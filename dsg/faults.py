"""Faults put into small runs on purpose, and what came out: `scripts/fault_trial.py`, tests/faults/.

A trial makes a run of its own in a folder of its own, disturbs it, calls it again, and compares what it leaves with
what an undisturbed run left: every image to the byte, the tables but for the seconds.
"""

import io
import json
import multiprocessing
import os
import random
import resource
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from dsg import image_files as images

RUN = ["sampler=mpgd_dsg", "sampler.steps=5", "data.limit=3", "batch_size=1", "metrics=[psnr,ssim]"]
PLAIN, LOGGED = "wandb.mode=disabled", "wandb.mode=offline"
PATIENCE = 300  # seconds that a call may take
FOLDERS = ("images", "condition", "truth")
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP")
processes = multiprocessing.get_context("forkserver")  # imports once, and has no threads when it forks


def start(out: Path, *options: str, largest_file: int | None = None, barrier=None):
    """`run.py` in a process of its own, which is returned; it writes to `<out>.log`.

    Args:
        largest_file: in bytes; a larger one cannot be written, as on a full disk.
        barrier: it waits there before it begins.
    """
    processes.set_forkserver_preload(["dsg.config", "dsg.runs.main"])
    process = processes.Process(target=_call, args=(out, options, largest_file, barrier))
    process.start()
    return process


def _call(out: Path, options, largest_file: int | None, barrier) -> None:
    import torch

    from dsg.config import load_with_sources
    from dsg.runs.main import run_one

    torch.set_num_threads(1)
    with open(f"{out}.log", "ab", buffering=0) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    config, sources = load_with_sources([*RUN, f"out={out}", *options])
    if barrier is not None:
        barrier.wait(PATIENCE)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))
    code = run_one(config, sources)
    sys.stdout.flush()
    sys.exit(code)


def ended(process) -> int | None:
    """Its exit code; one that takes too long is killed."""
    process.join(PATIENCE)
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode


def undisturbed(out: Path) -> float:
    """The run that others are compared with; the seconds that it took."""
    began = time.perf_counter()
    code = ended(start(out, LOGGED))
    if code != 0:
        raise RuntimeError(f"the undisturbed run ended with {code}: {said(out)}")
    return time.perf_counter() - began


def said(out: Path) -> str:
    return Path(f"{out}.log").read_text(errors="replace")


def problem(out: Path, reference: Path, codes: dict[int | None, int]) -> str | None:
    """What is wrong with a run after its last call; None: nothing.

    Args:
        codes: exit code that the last call had -> the one it should have had.
    """
    for got, expected in codes.items():
        if got != expected:
            return f"exit code {got}, not {expected}: {said(out)[-300:]}"
    if "Traceback" in said(out):
        return f"a traceback: {said(out)[-300:]}"
    for folder in FOLDERS:
        ours, theirs = ({p.name: p.read_bytes() for p in (o / folder).iterdir()} for o in (out, reference))
        if ours != theirs:
            return f"{folder}/ differs: {sorted(ours)}"
    if (out / "grid.png").read_bytes() != (reference / "grid.png").read_bytes():
        return "grid.png differs"
    if _numbers(out) != _numbers(reference):
        return "metrics.json or per_image.csv differs"
    return None


def _numbers(out: Path) -> tuple[dict, str]:
    """The tables without seconds, and without the code's version: somebody may commit in between."""
    summary = json.loads((out / "metrics.json").read_text())
    table = pd.read_csv(out / "per_image.csv", dtype=str).drop(columns=["seconds", "code"])
    return {
        k: v for k, v in summary.items() if k not in ("seconds_per_image", "speed", "versions", "overrides")
    }, table.to_csv()


# --- the trials: what is wrong, or None


def killed(out: Path, reference: Path, rng: random.Random, seconds: float, logging: str = LOGGED) -> str | None:
    """Killed at a random moment within `seconds`; the same call goes on."""
    process = start(out, logging)
    process.join(rng.uniform(0, seconds))
    process.kill()
    process.join()
    return problem(out, reference, {ended(start(out, logging)): 0})


def raced(out: Path, reference: Path, logging: str = LOGGED) -> str | None:
    """Twice at once."""
    barrier = processes.Barrier(2)
    both = [start(out, logging, barrier=barrier) for _ in range(2)]
    codes = [ended(process) for process in both]
    return problem(out, reference, {code: 0 for code in codes})


def contested(out: Path, reference: Path) -> str | None:
    """Another run into the same folder at the same moment: one gets it, the other is told."""
    barrier = processes.Barrier(2)
    both = [start(out, PLAIN, *other, barrier=barrier) for other in ([], ["seed=1"])]
    codes = [ended(process) for process in both]
    if sorted(codes, key=str) != [0, 2] or said(out).count("another run") != 1:
        return f"exit codes {codes}: {said(out)[-300:]}"
    return problem(out, reference, {}) if codes[0] == 0 else None


def filled(out: Path, reference: Path, rng: random.Random) -> str | None:
    """No file can grow beyond a random size; with space again the same call goes on."""
    largest = round(2 ** rng.uniform(11, 13.5))  # the least is enough for the log
    code = ended(start(out, PLAIN, largest_file=largest))
    told = code == 0 or ("error: " in said(out) and str(out) in said(out).rpartition("error: ")[2])
    if code not in (0, 1, 2) or not told:
        return f"with files of {largest} bytes at most: exit code {code}: {said(out)[-300:]}"
    return problem(out, reference, {ended(start(out, PLAIN)): 0})


def damaged(out: Path, reference: Path, rng: random.Random) -> str | None:
    """A random file of a finished run is cut, emptied, overwritten or removed: it is made again, or refused."""
    shutil.copytree(reference, out)
    files = [p for p in sorted(out.rglob("*")) if p.is_file() and p.relative_to(out).parts[0] != "wandb"]
    file, how = rng.choice(files), rng.choice(("cut", "emptied", "overwritten", "removed"))
    before = file.read_bytes()
    if how == "removed":
        file.unlink()
    else:
        new = {"cut": before[: rng.randrange(len(before))], "emptied": b"", "overwritten": rng.randbytes(len(before))}
        file.write_bytes(new[how])
    code = ended(start(out, PLAIN))
    if file.name == "config.yaml" and code == 2:
        return None if said(out).count("\n") == 1 else f"more than one line: {said(out)[-300:]}"
    wrong = problem(out, reference, {code: 0})
    return wrong and f"{file.relative_to(out)} {how}: {wrong}"


def misread(folder: Path, rng: random.Random) -> str | None:
    """A random image file, cut or with bytes changed: it is read, or refused in one line that names it."""
    pixels = np.frombuffer(rng.randbytes(72 * 68 * 3), np.uint8).reshape(72, 68, 3)
    kind, buffer = rng.choice(FORMATS), io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    content = bytearray(buffer.getvalue())
    for _ in range(rng.randrange(4)):
        content[rng.randrange(len(content))] = rng.randrange(256)
    path = folder / f"a.{kind.lower()}"
    path.write_bytes(content[: rng.randrange(len(content))] if rng.random() < 0.5 else content)
    try:
        return None if images.read(path, 64).shape == (64, 64, 3) else "another shape"
    except ValueError as error:
        return None if str(path) in str(error) and "\n" not in str(error) else f"not one line: {error}"
    except Exception as error:  # what this trial is after
        return f"{kind}: {type(error).__name__}: {error}"
    finally:
        path.unlink()
