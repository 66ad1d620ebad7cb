"""Tune the step size or guidance rate of every method alike, on validation faces.

    python scripts/tune.py --steps 20 100                     # writes configs/tuned/avatars64.yaml and the trials
    python scripts/tune.py --steps 10 50 --tasks super_resolution
    python scripts/tune.py --steps 50 --tasks clip_text style segmentation --trials 6
    python scripts/tune.py --steps 50 --tasks faceid --trials 6 --faces 24    # the verdict on 8 people is mostly noise

Criterion: mean HaarPSI over the same validation faces; for semantic tasks the judge's score of samples for validation references and
prompts (`AvatarEvaluator.score`; the judge guides nothing). Every method gets the same number of trials for each task and step
count: five on a grid of factor 2 (around the best value of the nearest tuned step count, if there is one), the rest where they
help most: beyond the grid while the best value is at its edge, then beside the best value. Each
trial is appended to `results/tuning/<model>.csv` when it is done; a stopped run goes on from there.
"""

import argparse
import itertools
import math
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from tqdm import tqdm

from dsg import images, metrics
from dsg.checkpoints import REPOSITORY
from dsg.figures import style
from dsg.noise import ImageNoise
from dsg.results import write_text
from dsg.samplers import sample
from dsg.search import best_of, is_inside, next_value, option_of

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

TASKS = ("inpaint", "super_resolution", "gaussian_deblur")
SAMPLERS = ("dps", "dps_dsg", "freedom", "freedom_dsg", "mpgd", "mpgd_dsg")
SEMANTIC = ("faceid", "clip_text", "style", "segmentation")
SEMANTIC_SAMPLERS = ("freedom", "freedom_dsg", "mpgd", "mpgd_dsg")
START = {"dps": 4.0, "freedom": 4.0, "mpgd": 4.0}  # centre of the first grid; for DSG's guidance rate it is 0.2
# of semantic tasks, where a released value is meant for another network's gradient
SEMANTIC_START = {
    ("faceid", "freedom"): 100.0,
    ("faceid", "mpgd"): 0.06,
    ("clip_text", "freedom"): 0.1,
    ("clip_text", "mpgd"): 1.0,
    ("style", "freedom"): 0.2,
    ("style", "mpgd"): 1.0,
    ("segmentation", "freedom"): 0.1,
    ("segmentation", "mpgd"): 1.0,
}
VALIDATION = {  # what takes the place of the test conditions
    "segmentation": "task.reference=data/avatars64/val_parts",
    "clip_text": "task.prompt=data/avatars64/prompts_val.txt",
}
KEY = ["task", "sampler", "steps"]


class Tuner:
    def __init__(self, args: argparse.Namespace):
        self.args, self.device = args, torch.device(args.device)
        config = compose("config", [f"model={args.model}"])
        self.prior = instantiate(config.model).to(self.device)
        self.judge = None if config.evaluator is None else instantiate(config.evaluator)
        self.pictures = images.load(REPOSITORY / args.data, self.prior.shape[-1], args.faces)
        self.file = args.out / f"{args.model}.csv"
        self.known_weights: dict[str, str] = {}
        self.trials = pd.DataFrame(columns=[*KEY, "faces", "value", "haarpsi", "psnr", "judged", "weights"])
        if self.file.exists():
            trials = pd.read_csv(self.file, dtype={"weights": str})
            current = trials["weights"] == [self.weights(task) for task in trials["task"]]
            self.check_faces(trials[current & trials["task"].isin(args.tasks)])
            self.trials = trials[current].reset_index(drop=True)

    def check_faces(self, trials: pd.DataFrame) -> None:
        """Scores on other faces do not compare, and are not thrown away."""
        for task, faces in trials[["task", "faces"]].drop_duplicates().itertuples(index=False):
            if faces != len(self.pictures):
                raise SystemExit(
                    f"{self.file}: {task} was tuned on {faces} faces: --faces {faces}, or remove its lines"
                )

    def weights(self, task: str) -> str:
        """Of the prior, and of what guides the task: trials of others are left aside."""
        if task not in self.known_weights:
            guide = getattr(
                instantiate(compose("config", [f"model={self.args.model}", f"task={task}"]).task), "weights_hash", None
            )
            self.known_weights[task] = self.prior.weights_hash[:10] + (f"+{guide[:10]}" if guide else "")
        return self.known_weights[task]

    def tried(self, key: tuple) -> pd.DataFrame:
        t = self.trials.assign(score=self.trials["haarpsi"])
        if "judged" in t:
            t["score"] = t["score"].astype(float).fillna(t["judged"].astype(float))
        return t[(t["task"] == key[0]) & (t["sampler"] == key[1]) & (t["steps"] == key[2])]

    def centre(self, key: tuple) -> float:
        """The best value of the same method at the nearest step count that is tuned already, if any."""
        task, sampler, steps = key
        counts = [n for n in self.trials["steps"].unique() if n != steps]
        done = [n for n in counts if len(self.tried((task, sampler, n))) >= self.args.trials]
        if not done:
            return SEMANTIC_START.get((task, sampler)) or (0.2 if sampler.endswith("_dsg") else START[sampler])
        return float(best_of(self.tried((task, sampler, min(done, key=lambda n: abs(math.log(n / steps))))))["value"])

    def try_value(self, key: tuple, value: float) -> None:
        task_name, sampler_name, steps = key
        overrides = [
            f"model={self.args.model}",
            f"task={task_name}",
            f"sampler={sampler_name}",
            f"sampler.steps={steps}",
        ]
        if task_name in VALIDATION:
            overrides.append(VALIDATION[task_name])
        config = compose("config", [*overrides, f"sampler.{option_of(sampler_name)}={value:.8g}", "sampler.interval=1"])
        task, sampler = instantiate(config.task), instantiate(config.sampler)
        scores = (self.judged if task_name in SEMANTIC else self.restored)(task, sampler, config.seed)
        about = {**dict(zip(KEY, key)), "faces": len(self.pictures), "value": value, **scores}
        row = pd.DataFrame([{**about, "weights": self.weights(task_name)}])
        self.trials = row if self.trials.empty else pd.concat([self.trials, row], ignore_index=True)
        write_text(self.file, self.trials.to_csv(index=False, float_format="%.6g"))

    def restored(self, task, sampler, seed: int) -> dict[str, float]:
        x, ids = images.to_tensor(self.pictures), [p.id for p in self.pictures]
        out = self.sample(task, sampler, task.measure(x, ids, seed), ids, seed)
        if not torch.isfinite(out).all():
            return {"haarpsi": math.nan, "psnr": math.nan}
        measured = metrics.measure(images.to_uint8(out), images.to_uint8(x))
        return {name: float(np.mean(measured[name])) for name in ("haarpsi", "psnr")}

    def judged(self, task, sampler, seed: int) -> dict[str, float]:
        task.to(self.device)
        cases = task.cases(self.prior.shape[-1], REPOSITORY / self.args.data, self.args.faces)
        out = self.sample(task, sampler, task.condition(cases), [case.id for case in cases], seed)
        finite = torch.isfinite(out).all()
        return {"judged": float(np.mean(self.judge.score(images.to_uint8(out), cases, task))) if finite else math.nan}

    def sample(self, task, sampler, condition: dict, ids: list[str], seed: int) -> torch.Tensor:
        condition = {k: v.to(self.device) for k, v in condition.items()}
        noise = ImageNoise(seed, ids, [0] * len(ids), self.prior.shape, self.device)
        return sample(self.prior, task, condition, sampler, noise.start(), noise)

    def run(self) -> None:
        keys = [
            (t, s, n)
            for n in self.args.steps
            for t in self.args.tasks
            for s in (SEMANTIC_SAMPLERS if t in SEMANTIC else SAMPLERS)
        ]
        left = sum(max(self.args.trials - len(self.tried(k)), 0) for k in keys)
        with tqdm(total=left, unit="trial", desc="tuning", disable=left == 0) as bar:
            for key in keys:
                while len(self.tried(key)) < self.args.trials:
                    bar.set_postfix_str(" ".join(map(str, key)))
                    self.try_value(key, next_value(self.tried(key), key[1], self.centre(key)))
                    bar.update()
                self.write()

    def write(self) -> None:
        """The table of the best values, and the curves."""
        lines = [
            "# Written by scripts/tune.py: the value with the best mean HaarPSI on validation faces, or for semantic tasks the",
            f"# best score of the judge; every trial is in results/tuning/{self.args.model}.csv. any: their median,",
            "# for other numbers of steps.",
        ]
        for task, of_task in self.trials.groupby("task", sort=False):
            lines.append(f"{task}:")
            for sampler, of_sampler in of_task.groupby("sampler", sort=False):
                lines.append(f"  {sampler}:")
                best = [self.best((task, sampler, steps)) for steps in sorted(of_sampler["steps"].unique())]
                lines += [
                    f"    s{row['steps']}: {{{option_of(sampler)}: {row['value']:.4g}}}  # {row['note']}"
                    for row in best
                ]
                middle = math.exp(np.median([math.log(row["value"]) for row in best]))
                lines.append(f"    any: {{{option_of(sampler)}: {middle:.4g}}}")
        write_text(REPOSITORY / f"configs/tuned/{self.args.model}.yaml", "\n".join(lines) + "\n")
        self.draw()

    def best(self, key: tuple) -> dict:
        trials = self.tried(key)
        row = best_of(trials)
        name = "judged" if key[0] in SEMANTIC else "HaarPSI"
        note = f"{name} {row['score']:.3f} on {trials['faces'].iloc[0]}, {len(trials)} trials"
        return {**row, "note": note + ("" if is_inside(trials, key[1]) else ", at the edge of what was tried")}

    def draw(self) -> None:
        for name, of_kind in self.trials.groupby(self.trials["task"].isin(SEMANTIC)):
            self.draw_kind(of_kind, "judged" if name else "haarpsi", "-semantic" if name else "")

    def draw_kind(self, trials: pd.DataFrame, score: str, suffix: str) -> None:
        counts, tasks = sorted(trials["steps"].unique()), list(trials["task"].unique())
        fig, axes = plt.subplots(len(counts), len(tasks), figsize=(4 * len(tasks), 3 * len(counts)), squeeze=False)
        for (r, steps), (c, task) in itertools.product(enumerate(counts), enumerate(tasks)):
            ax = axes[r, c]
            part = trials[(trials["task"] == task) & (trials["steps"] == steps)]
            if part.empty:
                ax.axis("off")
                continue
            for sampler, curve in part.groupby("sampler", sort=False):
                curve = curve.sort_values("value")
                ax.plot(curve["value"], curve[score], **style(sampler))
            ax.set_xscale("log"), ax.set_title(f"{task.replace('_', ' ')}, {steps} steps", fontsize=9)
            (
                ax.set_xlabel("step size, or guidance rate of DSG", fontsize=8),
                ax.set_ylabel({"haarpsi": "HaarPSI"}.get(score, "judge's score"), fontsize=8),
            )
        handles, labels = max((ax.get_legend_handles_labels() for ax in axes.flat), key=lambda pair: len(pair[1]))
        fig.legend(handles, labels, fontsize=8, ncol=len(labels), loc="upper center")
        fig.tight_layout(rect=(0, 0, 1, 0.96))
        fig.savefig(self.args.out / f"{self.args.model}{suffix}.png", dpi=110)
        plt.close(fig)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="avatars64")
    parser.add_argument("--steps", type=int, nargs="+", default=[20, 100])
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--faces", type=int, default=8)
    parser.add_argument("--trials", type=int, default=8, help="per method, task and step count")
    parser.add_argument("--data", type=Path, default=Path("data/avatars64/val"))
    parser.add_argument("--out", type=Path, default=REPOSITORY / "results/tuning")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with initialize_config_dir(str(REPOSITORY / "configs"), version_base="1.3"):
        Tuner(args).run()


if __name__ == "__main__":
    main()
