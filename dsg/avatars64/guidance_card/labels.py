"""How well a network labels the pixels of faces."""

import numpy as np
import torch
import torch.nn.functional as F

from dsg.avatars64.drawing import PARTS
from dsg.avatars64.guidance_card.identity import batched
from dsg.avatars64.guidance_card.people import People
from tasks.segmentation import mean_iou


def label_metrics(network, people: People, name: str) -> tuple[dict[str, float], np.ndarray]:
    """Shares, and the label maps found, uint8 [N, H, W]."""
    found = batched(lambda x: network(x).argmax(1), people.x, name)
    truth = torch.from_numpy(people.parts.astype(np.int64))
    confusion = torch.bincount((truth * len(PARTS) + found).flatten(), minlength=len(PARTS) ** 2)
    confusion = confusion.reshape(len(PARTS), -1).double()
    iou = confusion.diagonal() / (confusion.sum(0) + confusion.sum(1) - confusion.diagonal())
    wide = truth[:, None].float()
    border = (F.max_pool2d(wide, 3, 1, 1) != -F.max_pool2d(-wide, 3, 1, 1))[:, 0]
    wrong, per_face = found != truth, mean_iou(found, truth, len(PARTS))
    row = {
        "pixels right": 1 - wrong.float().mean().item(),
        **{f"IoU {part}": value for part, value in zip(PARTS, iou.tolist())},
        "mean IoU": iou.mean().item(),
        "mean IoU per face": per_face.mean().item(),
        "worst face": per_face.min().item(),
        "errors at a border": (wrong & border).sum().item() / max(wrong.sum().item(), 1),
        "pixels at a border": border.float().mean().item(),
    }
    return row, found.numpy().astype(np.uint8)
