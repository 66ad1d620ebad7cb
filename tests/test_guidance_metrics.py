"""CLIP score, ID and style distance of saved images: against the reference, and the tasks' own numbers."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import compose_config, save_clip
from hydra.utils import instantiate

from dsg.metrics.guidance import CLIPScore
from dsg.runs.evaluation import add_metrics
from dsg.runs.prepare import prepare
from dsg.types import Input, to_tensor
from tasks.networks.base import GuidanceNetwork

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXTS = ["a cat", "a cat cat"]


def random_images(count=2, size=96):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3)).astype(np.uint8)


def test_clip_score_is_that_of_transformers_own_model_and_preprocessing(tmp_path):
    """Of images larger than CLIP's size, so that its antialiased resize counts."""
    from transformers import CLIPImageProcessor, CLIPTokenizer

    model = save_clip(tmp_path, SMALL, image_size=32)
    model.visual_projection.weight.neg_()  # so that the cosines are above 0
    model.save_pretrained(tmp_path)
    images, metric = random_images(), CLIPScore(str(tmp_path))
    found = metric(images, [Input(text, prompt=text) for text in TEXTS])
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    prepared = CLIPImageProcessor.from_pretrained(tmp_path, **size)(images=list(images), return_tensors="pt")
    texts = CLIPTokenizer.from_pretrained(tmp_path)(TEXTS, return_tensors="pt", padding=True)
    cosines = model(**texts, **prepared).logits_per_image.diagonal() / model.logit_scale.exp()
    assert found == pytest.approx((100 * cosines.clamp_min(0)).tolist(), abs=0.02) and max(found) > 1
    task = instantiate(compose_config("task=clip_text", f"task.guidance.checkpoint={tmp_path}").task)
    condition = task.condition([Input(text, prompt=text) for text in TEXTS], 0)
    guided = 100 * torch.cosine_similarity(task.feature(to_tensor(images)), condition["text"]).clamp_min(0)
    assert found != pytest.approx(guided.tolist(), abs=0.1)  # whose resize is not antialiased


def test_clip_score_says_what_gets_its_network_and_needs_a_prompt(tmp_path):
    assert "fetch_checkpoints.py clip" in CLIPScore(str(tmp_path / "none")).missing()
    assert not CLIPScore().applies([Input("a")]) and CLIPScore().applies([Input("a", prompt="b")])


@pytest.mark.parametrize("task, metric, tolerance", [("faceid", "id_distance", 0.02), ("style", "style_distance", 2)])
def test_a_distance_from_saved_images_is_the_task_s_own(tmp_path, task, metric, tolerance):
    """Apart from the rounding to 8 bits; added to a finished run as scripts/evaluate.py does."""
    out = tmp_path / "o"
    config = compose_config(
        f"task={task}", "sampler=unconditional", "sampler.steps=2", "data.limit=2", "metrics=[]", f"out={out}"
    )
    prepare(config, out=out).execute()
    own = json.loads((out / "metrics.json").read_text())["metrics"][metric]["mean"]
    assert add_metrics(out, [metric], {}) == {}
    added = json.loads((out / "metrics.json").read_text())["metrics"][metric]["mean"]
    assert added == pytest.approx(own, abs=tolerance, rel=2e-3) and added > 0
    assert add_metrics(out, ["clip_score"], {}) == {"clip_score": "this task has nothing to compare with"}


@pytest.mark.parametrize("device", ["cuda:1", "cpu"])
@pytest.mark.parametrize("name", ["clip_score", "id_distance", "style_distance"])
def test_a_network_looks_at_images_on_the_run_s_device(name, device, monkeypatch):
    """And on no other that the machine has."""

    class Asked(Exception):
        pass

    def asked(self, device):
        raise Asked(str(device))

    monkeypatch.setattr(GuidanceNetwork, "load", asked)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: device == "cpu")
    metric = instantiate(compose_config(f"metrics=[{name}]").metrics[name])
    bound = metric.of(SimpleNamespace(device=torch.device(device)))
    with pytest.raises(Asked, match=f"^{device}$"):
        bound(random_images(1), [Input("a", prompt="a cat")])
