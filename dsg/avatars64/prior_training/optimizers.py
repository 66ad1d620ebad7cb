"""AdamW, and Muon for the hidden matrices."""

import torch
from torch import Tensor, nn


class Muon(torch.optim.Optimizer):
    """Momentum whose update of each weight matrix is made orthogonal (Jordan et al. 2024), in the size of AdamW's.

    A convolution's kernel [out, in, h, w] is the matrix [out, in * h * w].
    """

    def __init__(self, params, lr: float, momentum: float = 0.95):
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                average = self.state[p].setdefault("momentum", torch.zeros_like(p))
                average.lerp_(p.grad, 1 - group["momentum"])
                direction = p.grad.lerp(average, group["momentum"])  # Nesterov's
                update = orthogonal(direction.flatten(1)).view_as(p)
                p.sub_(update, alpha=group["lr"] * 0.2 * max(p.shape[0], p[0].numel()) ** 0.5)


def orthogonal(g: Tensor) -> Tensor:
    """Nearly the orthogonal factor U V' of g = U S V', [m, n], by five Newton-Schulz steps of degree five.

    A step is x <- p(x x') x. The polynomials are gathered on the small side, where all that is needed is x x'.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.T if g.shape[0] > g.shape[1] else g
    x = x / (x.norm() + 1e-7)
    gram, identity = x @ x.T, torch.eye(len(x), device=x.device)
    product = identity
    for _ in range(5):
        p = a * identity + b * gram + c * gram @ gram
        product, gram = p @ product, p @ gram @ p
    x = product @ x
    return x.T if g.shape[0] > g.shape[1] else x


def optimizers(net: nn.Module, name: str, lr: float) -> list[torch.optim.Optimizer]:
    """AdamW for everything; or Muon for the hidden matrices and AdamW for vectors, the first and the last layer."""
    ends = {id(p) for module in (net.time_embed[0], net.input_blocks[0], net.out) for p in module.parameters()}
    hidden = [p for p in net.parameters() if name == "muon" and p.ndim > 1 and id(p) not in ends]
    chosen = {id(p) for p in hidden}
    rest = [p for p in net.parameters() if id(p) not in chosen]
    adam = torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.99), weight_decay=0.0)
    made = [adam, Muon(hidden, lr)] if hidden else [adam]
    for optimizer in made:
        for group in optimizer.param_groups:
            group["peak"] = lr
    return made
