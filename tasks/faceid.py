"""FaceID: the person of a reference picture, in the features of a face recognition network."""

from collections.abc import Callable, Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from dsg.images import to_tensor
from tasks.semantic import Case, SemanticTask


class FaceID(SemanticTask):
    """|f(x0) - f(reference)|, f of length 1: FreeDoM's and MPGD's face code, DSG's section 5.

    An image is average-pooled to `image_size` if it has another, cropped to `crop`, and average-pooled to the network's size.

    Args:
        image_size: side at which `crop` is meant; references are resized to it (bilinear, Pillow's).
        crop: [top, bottom, left, right] of the face in it.
    """

    takes = ("reference",)
    fetched_as = "arcface"
    judged_as = ("identity",)

    def __init__(
        self,
        name: str,
        guide: Callable[[], nn.Module],
        reference: str | None = None,
        image_size: int = 256,
        crop: Sequence[int] = (35, 223, 32, 220),
        cpu_batch: int = 4,
    ):
        super().__init__(name, guide, reference, cpu_batch=cpu_batch)
        top, bottom, left, right = crop
        if not (0 <= top < bottom <= image_size and 0 <= left < right <= image_size):
            raise ValueError(f"task.crop={list(crop)}: [top, bottom, left, right] within task.image_size={image_size}")
        self.image_size, self.crop = image_size, (top, bottom, left, right)

    def reference_size(self, size: int) -> int:
        return self.image_size

    def feature(self, x: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [-1, 1] -> [B, F] of length 1."""
        network, (top, bottom, left, right) = self.network(x.device), self.crop
        if x.shape[-1] != self.image_size:
            x = F.adaptive_avg_pool2d(x, self.image_size)
        face = F.adaptive_avg_pool2d(x[..., top:bottom, left:right], network.input_size)
        return self.guided(network, face)

    def encode(self, case: Case) -> dict[str, Tensor]:
        return {"feature": self.feature(to_tensor([case.reference]).to(self.device))}

    def loss(self, x0: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        return (self.feature(x0) - condition["feature"]).norm(dim=1)

    def measures(self, images: Tensor, condition: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"id_distance": self.loss(images, condition)}
