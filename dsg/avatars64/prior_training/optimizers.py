"""AdamW, and Muon for the hidden matrices."""

import torch
from torch import Tensor, nn


class Muon(torch.optim.Optimizer):
    """Momentum whose update of each weight matrix is made orthogonal (Jordan et al. 2024), in the size of AdamW's.

    A convolution's kernel [out, in, h, w] is the matrix [out, in * h * w]. Matrices of one shape are taken together.
    """

    def __init__(self, params, lr: float, momentum: float = 0.95):
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            shapes = {}
            for p in group["params"]:
                shapes.setdefault(p.shape, []).append(p)
            for shape, alike in shapes.items():
                grads = [p.grad for p in alike]
                averages = [self.average(p) for p in alike]
                torch._foreach_lerp_(averages, grads, 1 - group["momentum"])
                directions = torch._foreach_lerp(grads, averages, group["momentum"])  # Nesterov's
                updates = orthogonal(torch.stack(directions).flatten(2)).view(-1, *shape)
                rate = group["lr"] * 0.2 * max(shape[0], shape[1:].numel()) ** 0.5
                torch._foreach_sub_(alike, list(rate * updates))

    def average(self, p: Tensor) -> Tensor:
        """Of its gradients."""
        if "momentum" not in self.state[p]:
            self.state[p]["momentum"] = torch.zeros_like(p)
        return self.state[p]["momentum"]


def orthogonal(g: Tensor) -> Tensor:
    """Nearly the orthogonal factor U V' of g = U S V', [..., m, n], by five Newton-Schulz steps of degree five.

    A step is x <- p(x x') x. The polynomials are gathered on the small side, where all that is needed is x x'.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = g.shape[-2] > g.shape[-1]
    x = g.mT if tall else g
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    gram, identity = x @ x.mT, torch.eye(x.shape[-2], device=x.device)
    product = identity
    for _ in range(5):
        p = a * identity + b * gram + c * gram @ gram
        product, gram = p @ product, p @ gram @ p
    x = product @ x
    return x.mT if tall else x


def optimizers(net: nn.Module, name: str, lr: float) -> list[torch.optim.Optimizer]:
    """AdamW for everything; or Muon for the hidden matrices and AdamW for vectors, first layers and the last one."""
    outer = [net.time_embed[0], net.input_blocks[0], net.out, *([net.label_emb] if net.label_emb else [])]
    ends = {id(p) for module in outer for p in module.parameters()}
    hidden = [p for p in net.parameters() if name == "muon" and p.ndim > 1 and id(p) not in ends]
    chosen = {id(p) for p in hidden}
    rest = [p for p in net.parameters() if id(p) not in chosen]
    on_gpu = next(net.parameters()).is_cuda
    adam = torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.99), weight_decay=0.0, capturable=on_gpu)
    return [adam, Muon(hidden, lr)] if hidden else [adam]
