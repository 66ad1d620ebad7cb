"""Face parsing: the parts of a reference's face, where they are, in the outputs of a network that labels pixels."""

from torch import Tensor

from dsg.types import Column, Input, to_tensor
from tasks.base import Condition
from tasks.networks.base import GuidanceNetwork
from tasks.segmentation import mean_iou
from tasks.semantic import SemanticTask


class FaceParsing(SemanticTask):
    """|f(x0) - f(reference)|, f the network's logits of every pixel and class: FreeDoM's face code.

    `task=segmentation` asks for a label map instead; here it is an image whose parts the new face shall have.

    Args:
        guidance: see `tasks.networks.bisenet.load_bisenet`.
        image_size: side to which references are resized, in pixels (bilinear, Pillow's): the network's.
        reference, cpu_batch: see `SemanticTask`.
    """

    reference_kind = "image"
    columns = (
        Column("parsing_distance", "parsing distance (guidance network)", 1, False),
        Column("guidance_miou", "mIoU (guidance network)", 3, True),
    )

    def __init__(
        self,
        name: str,
        guidance: GuidanceNetwork,
        reference: str | None = None,
        image_size: int = 512,
        cpu_batch: int = 1,
    ):
        super().__init__(name, guidance, reference, cpu_batch=cpu_batch)
        self.image_size = image_size

    def reference_size(self, size: int) -> int:
        return self.image_size

    def logits(self, image: Tensor) -> Tensor:
        """[B, classes, H, W] of images [B, 3, h, w] in [-1, 1]."""
        return self.in_batches(self.network(image.device), image)

    def encode(self, input: Input) -> dict[str, Tensor]:
        return {"logits": self.logits(to_tensor([input.reference]).to(self.device))}

    def loss(self, image: Tensor, condition: Condition) -> Tensor:
        return (self.logits(image) - condition["logits"]).flatten(1).norm(dim=1)

    def metrics(self, image: Tensor, condition: Condition) -> dict[str, Tensor]:
        found, wanted = self.logits(image), condition["logits"]
        return {
            "parsing_distance": (found - wanted).flatten(1).norm(dim=1),
            "guidance_miou": mean_iou(found.argmax(1), wanted.argmax(1), found.shape[1]),
        }
