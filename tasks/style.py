"""Style: that of a reference image, in the Gram matrix of CLIP's patch tokens."""

from torch import Tensor

from dsg.types import Column, Input, to_tensor
from tasks.base import Condition
from tasks.networks.base import GuidanceNetwork
from tasks.semantic import SemanticTask


class Style(SemanticTask):
    """|Gram(x0) - Gram(reference)| (Frobenius), Gram = F^T F over the patch tokens F after the third block.

    That is FreeDoM's style code.

    Args:
        guidance: `tasks.clip.load_clip` with three blocks.
        image_size: side of the references in pixels.
        reference, prompt, cpu_batch: see `SemanticTask`.
    """

    reference_kind = "image"
    columns = (Column("style_distance", "style distance (guidance network)", 0, False),)
    evaluated_by = ("evaluated_style",)

    def __init__(
        self,
        name: str,
        guidance: GuidanceNetwork,
        reference: str | None = None,
        prompt: str | None = None,
        image_size: int = 224,
        cpu_batch: int = 4,
    ):
        super().__init__(name, guidance, reference, prompt, cpu_batch)
        self.image_size = image_size

    def reference_size(self, size: int) -> int:
        return self.image_size

    def gram(self, image: Tensor) -> Tensor:
        """[B, channels, channels] of images [B, 3, H, W]."""
        tokens = self.in_batches(self.network(image.device).patch_tokens, image)
        return tokens.transpose(1, 2) @ tokens

    def encode(self, input: Input) -> dict[str, Tensor]:
        return {"gram": self.gram(to_tensor([input.reference]).to(self.device))}

    def loss(self, image: Tensor, condition: Condition) -> Tensor:
        return (self.gram(image) - condition["gram"]).flatten(1).norm(dim=1)

    def metrics(self, image: Tensor, condition: Condition) -> dict[str, Tensor]:
        return {"style_distance": self.loss(image, condition)}


class TextStyle(Style):
    """Style, while the prior (Stable Diffusion) follows a prompt."""

    takes_prompt = True
    prompts_prior = True
    evaluated_by = ("evaluated_style", "clip_score")
