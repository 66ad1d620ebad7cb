"""FaceID: the person of a reference image, in the features of a face recognition network."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from dsg.types import Column, Input, to_tensor
from tasks.base import Condition
from tasks.networks.base import GuidanceNetwork
from tasks.semantic import SemanticTask


class FaceID(SemanticTask):
    """|f(x0) - f(reference)|, f of length 1: FreeDoM's and MPGD's face code, DSG's section 5.

    An image is average-pooled to `image_size` if it has another, cropped to `crop`, and average-pooled to the network's
    size.

    Args:
        guidance: see `tasks.networks.irse.load_irse`.
        image_size: side at which `crop` is meant, in pixels; references are resized to it (bilinear, Pillow's).
        crop: [top, bottom, left, right] of the face in it.
        reference, cpu_batch: see `SemanticTask`.
    """

    reference_kind = "image"
    columns = (Column("id_distance", "ID distance (guidance network)", 3, False),)
    evaluated_by = ("identity_attributes", "same_identity")

    def __init__(
        self,
        name: str,
        guidance: GuidanceNetwork,
        reference: str | None = None,
        image_size: int = 256,
        crop: Sequence[int] = (35, 223, 32, 220),
        cpu_batch: int = 4,
    ):
        super().__init__(name, guidance, reference, cpu_batch=cpu_batch)
        top, bottom, left, right = crop
        if not (0 <= top < bottom <= image_size and 0 <= left < right <= image_size):
            raise ValueError(f"task.crop={list(crop)}: [top, bottom, left, right] within task.image_size={image_size}")
        self.image_size, self.crop = image_size, (top, bottom, left, right)

    def reference_size(self, size: int) -> int:
        return self.image_size

    def feature(self, image: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [-1, 1] -> [B, F] of length 1."""
        network, (top, bottom, left, right) = self.network(image.device), self.crop
        if image.shape[-1] != self.image_size:
            image = F.adaptive_avg_pool2d(image, self.image_size)
        face = F.adaptive_avg_pool2d(image[..., top:bottom, left:right], network.input_size)
        return self.in_batches(network, face)

    def encode(self, input: Input) -> dict[str, Tensor]:
        return {"feature": self.feature(to_tensor([input.reference]).to(self.device))}

    def loss(self, image: Tensor, condition: Condition) -> Tensor:
        return (self.feature(image) - condition["feature"]).norm(dim=1)

    def metrics(self, image: Tensor, condition: Condition) -> dict[str, Tensor]:
        return {"id_distance": self.loss(image, condition)}
