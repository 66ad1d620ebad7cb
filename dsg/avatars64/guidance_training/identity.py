"""The guidance network of `task=faceid`."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dsg.avatars64.attributes import IDENTITY
from dsg.avatars64.faces import load_estimates, read_shards
from dsg.avatars64.guidance_training.base import Job, attribute_targets, draw, save_half, seen
from dsg.checkpoints import load_into, read_state_dict
from tasks.networks.irse import IRSE

LAYOUT = {"input_size": 64, "channels": (16, 24, 48, 96, 128), "units": (1, 2, 2, 2), "features": 128}


class Identity(Job):
    """ArcFace: softmax over identities on the sphere, with an angular margin (Deng et al., arXiv 1801.07698, eq. 3).

    Beside it, on the same features, are heads for what makes a person. They are thrown away.
    """

    batch, rate, file = 96, 2e-3, "identity.safetensors"
    scale, margin = 24.0, 0.25
    attack = 2.0  # largest step of `attacked`; a face has length 60 or so

    def __init__(self, data: Path):
        super().__init__()
        table, (self.images,) = read_shards(data / "identities", "images")
        self.estimates = load_estimates(data / "identities")
        self.labels = torch.tensor(table["identity"].to_numpy())
        self.network = IRSE(**LAYOUT)
        self.centres = nn.Parameter(torch.randn(int(self.labels.max()) + 1, LAYOUT["features"]))
        targets, counts = attribute_targets(table)
        self.targets = {name: targets[name] for name in IDENTITY}
        self.heads = nn.ModuleDict({name: nn.Linear(LAYOUT["features"], counts[name]) for name in IDENTITY})

    @torch.no_grad()
    def begin(self, weights: Path) -> None:
        """The network's; the centres are the means of its features of each person's faces."""
        path = weights / self.file
        load_into(self.network, read_state_dict(path, "avatars64"), path)
        self.network.eval()
        features = torch.cat([self.network(part.float() / 127.5 - 1) for part in self.images.split(256)])
        self.centres.zero_().index_add_(0, self.labels, features)
        self.network.train()

    def loss(self, rng: np.random.Generator) -> Tensor:
        index = draw(len(self.images), self.batch, rng)
        # more noise and blur than for the others, since a person is to be recognised in a sampler's first estimates
        images = seen(self.images, self.estimates, index, rng, noise=0.7, coarsest=8)
        length = self.attack * torch.from_numpy(rng.random(len(images), dtype=np.float32))[:, None, None, None]
        return self.loss_of(attacked(images, lambda x: self.loss_of(x, index), length), index)

    def loss_of(self, images: Tensor, index: Tensor) -> Tensor:
        """Of images [B, 3, 64, 64] in [-1, 1] of the faces `index`."""
        features, labels = self.network(images).float(), self.labels[index]
        cosine = features @ F.normalize(self.centres).T
        own = F.one_hot(labels, len(self.centres)).bool()
        angle = cosine.clamp(-1 + 1e-6, 1 - 1e-6).acos()
        logits = torch.where(own, (angle + self.margin).clamp_max(math.pi).cos(), cosine)
        heads = sum(
            F.cross_entropy(self.heads[k](self.scale * features).float(), self.targets[k][index]) for k in self.heads
        )
        return F.cross_entropy(self.scale * logits, labels) + 0.5 * heads

    def save(self, out: Path) -> None:
        save_half(self.network, out / self.file)


def attacked(images: Tensor, loss: Callable[[Tensor], Tensor], length: Tensor) -> Tensor:
    """Images moved by `length` along the gradient that raises the loss most.

    Goodfellow et al., arXiv 1412.6572, in L2. A network that is trained on such images has gradients that change what
    a person sees (Santurkar et al., arXiv 1906.09453). Without them the network's distance fell while the sample
    remained another person.
    """
    x = images.requires_grad_()
    gradient = torch.autograd.grad(loss(x), x)[0].float()
    return (x + length * gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None].clamp_min(1e-12)).detach()
