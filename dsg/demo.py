"""A page in the browser that restores one photograph at a time: `make demo`.

It listens on this machine only, loads nothing from elsewhere, restores one image after the other, and keeps none.
"""

import os
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from queue import Empty, Queue
from tempfile import TemporaryDirectory
from threading import Thread
from typing import NamedTuple

import numpy as np
from PIL import Image

from dsg import config
from dsg.api import Restored
from dsg.api import restore as restore_image
from dsg.files import REPOSITORY
from dsg.image_files import save
from dsg.runs.prepare import build, load_once_from
from dsg.types import to_uint8

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
EXAMPLES = sorted((REPOSITORY / "data/photos/examples").glob("*.png"))
MODELS, SAMPLERS = ("photos", "avatars64"), ("mpgd_dsg", "dps_dsg", "freedom_dsg")
LARGEST, MEGABYTES, EVERY = 1024, 20, 0.5  # px of a side; of an upload; seconds between two previews


class Damage(NamedTuple):
    """What is wrong with an image, and what undoes it."""

    task: str
    options: Sequence[str] = ()
    degraded: bool = True  # false: the damage is done here, and undone
    painted: bool = False


DAMAGES = {
    "Fill what I paint": Damage("inpaint", painted=True),
    "Enlarge 4 times": Damage("super_resolution"),
    "Repair JPEG artefacts (quality 25)": Damage("jpeg"),
    "Reduce 4 times, then restore": Damage("super_resolution", degraded=False),
    "Drop 70 % of the pixels, then restore": Damage("inpaint", ["task.masked_fraction=[0.7,0.7]"], degraded=False),
    "Blur, then restore": Damage("gaussian_deblur", degraded=False),
    "Shake, then restore": Damage("motion_deblur", degraded=False),
    "Add noise, then restore": Damage("denoise", degraded=False),
}


class Wanted(NamedTuple):
    """What the page asks for."""

    image: np.ndarray
    mask: np.ndarray | None  # [H, W], 1 = observed
    damage: Damage
    model: str
    steps: int
    seed: int

    def overrides(self) -> list[str]:
        return [*self.damage.options, f"sampler.steps={self.steps}", f"seed={self.seed}"]

    def command(self, sampler: str) -> str:
        """The run.py command that makes the same image."""
        words = [f"model={self.model}", "data.root=image.png", f"task={self.damage.task}", f"sampler={sampler}"]
        words += ["data.degraded=true"] * self.damage.degraded + ["task.mask=mask.png"] * self.damage.painted
        return shlex.join(["python", "run.py", *words, *self.overrides()])


def picture(editor: Mapping | None, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Image [H, W, 3] of at most `side` px, and mask [H, W], 1 where nothing was painted.

    Raises:
        ValueError: there is no image.
    """
    if editor is None or editor.get("background") is None:
        raise ValueError("open a photograph first, or take an example")
    image = Image.fromarray(editor["background"]).convert("RGB")
    painted = np.zeros(image.size[::-1], bool)
    for layer in editor.get("layers", ()):
        painted |= layer[..., 3] > 0
    scale = min(1, min(side, LARGEST) / max(image.size))
    size = tuple(max(16, round(length * scale)) for length in image.size)
    mask = Image.fromarray((255 * painted).astype(np.uint8)).resize(size, Image.Resampling.BOX)
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS)), (np.asarray(mask) == 0).astype(np.uint8)


def restore(wanted: Wanted, sampler: str) -> Iterator[np.ndarray | Restored]:
    """Predicted clean images while the sampler works, and at last the restored one.

    Raises:
        ValueError: one line, as of `dsg.restore`.
    """
    news: Queue = Queue()
    prior = load_once_from(config.load([f"model={wanted.model}"]).model)

    def work() -> None:
        try:
            show = lambda state: news.put(to_uint8(prior.decode(state.x0))[0])  # noqa: E731
            options = {"degraded": wanted.damage.degraded, "mask": wanted.mask, "callback": show}
            news.put(
                restore_image(wanted.image, wanted.damage.task, sampler, wanted.model, wanted.overrides(), **options)
            )
        except (ValueError, OSError) as error:
            news.put(error)

    Thread(target=work, daemon=True).start()
    shown = 0.0
    while True:
        try:
            item = news.get(timeout=600)
        except Empty:
            raise ValueError("nothing came for ten minutes: try fewer pixels") from None
        if isinstance(item, Exception):
            raise ValueError(str(item))
        if isinstance(item, Restored):
            yield item
            return
        if time.monotonic() - shown > EVERY:
            shown = time.monotonic()
            yield item


def describe(wanted: Wanted, sampler: str, seconds: float) -> str:
    """Label, time and passes of a restored image."""
    chosen = config.load([f"model={wanted.model}", f"task={wanted.damage.task}", f"sampler={sampler}",
                          *wanted.overrides()])  # fmt: skip
    cost = build(chosen.sampler).cost(load_once_from(chosen.model).schedule)
    return f"`{sampler}`: {seconds:.1f} s, {cost.forward} network evaluations, {cost.backward} backward passes"


def run(editor, damage, model, sampler, steps, side, seed, compare) -> Iterator[tuple]:
    """What the page shows: preview, before and after, base method and DSG, words, command, files."""
    import gradio as gr

    try:
        image, mask = picture(editor, int(side))
        kind = DAMAGES[damage]
        wanted = Wanted(image, mask if kind.painted else None, kind, model, int(steps), int(seed))
        if kind.painted and mask.all():
            raise ValueError("paint over what shall be filled")
        base = config.load([f"sampler={sampler}"]).sampler.base_method
        results, words = {}, []
        for method in [sampler, *([base] if compare and base else [])]:
            began = time.monotonic()
            for item in restore(wanted, method):
                if isinstance(item, Restored):
                    results[method] = item
                else:
                    yield item, None, gr.update(), f"{method} ...", "", None
            words.append(describe(wanted, method, time.monotonic() - began))
    except (ValueError, OSError) as error:
        raise gr.Error(str(error)) from None
    restored = results[sampler].image
    before = Image.fromarray(results[sampler].measurement).resize(restored.shape[1::-1], Image.Resampling.NEAREST)
    pair = (results[base].image, restored) if base in results else None
    with TemporaryDirectory() as folder:
        files = [Path(folder) / "image.png"]
        save(files[0], image)
        if kind.painted:
            files.append(Path(folder) / "mask.png")
            save(files[1], 255 * mask[..., None])
        slider, names = (np.asarray(before), restored), [str(file) for file in files]
        both = gr.update(value=pair, visible=pair is not None)
        yield restored, slider, both, "  \n".join(words), wanted.command(sampler), names


def page():
    """The page, a gradio.Blocks."""
    import gradio as gr

    with gr.Blocks(title="DSG", delete_cache=(600, 600)) as blocks:
        gr.Markdown("# Restore a photograph\nOpen one or take an example, choose what is wrong with it, press Restore.")
        with gr.Row():
            with gr.Column():
                editor = gr.ImageEditor(type="numpy", label="Photograph: paint over what shall be filled",
                                        brush=gr.Brush(default_size=12, colors=["#ff00ff"]), height=420)  # fmt: skip
                gr.Examples([[{"background": str(e), "layers": [], "composite": str(e)}] for e in EXAMPLES], [editor])
                damage = gr.Dropdown(list(DAMAGES), label="Damage", value="Reduce 4 times, then restore")
                with gr.Row():
                    model = gr.Dropdown(MODELS, label="Prior", value=MODELS[0])
                    sampler = gr.Dropdown(SAMPLERS, label="Method", value=SAMPLERS[0])
                with gr.Row():
                    steps = gr.Slider(2, 100, 20, step=1, label="Steps")
                    side = gr.Slider(64, LARGEST, 256, step=16, label="Longest side, px")
                    seed = gr.Number(0, label="Seed", precision=0, minimum=0)
                compare = gr.Checkbox(label="Compare with its base method, without DSG")
                button = gr.Button("Restore", variant="primary", elem_id="restore")
            with gr.Column():
                look = {"format": "png", "buttons": ["download", "fullscreen"]}
                preview = gr.Image(label="Restored (while it runs: the predicted clean image)", height=360, **look)
                slider = gr.ImageSlider(label="Before and after", **look)
                pair = gr.ImageSlider(label="Base method, and with DSG", visible=False, **look)
                words = gr.Markdown(elem_id="words")
                command = gr.Code(label="The same image on the command line", language="shell", interactive=False,
                                  wrap_lines=True)  # fmt: skip
                files = gr.Files(label="What that command reads")
        shown = [preview, slider, pair, words, command, files]
        button.click(run, [editor, damage, model, sampler, steps, side, seed, compare], shown)
    return blocks.queue(default_concurrency_limit=1, max_size=8)


def launch(host: str = "127.0.0.1", port: int = 7860, open_browser: bool = True) -> None:
    """Serve the page until Ctrl-C."""
    page().launch(server_name=host, server_port=port, inbrowser=open_browser, max_file_size=f"{MEGABYTES}mb")
