"""CUDA graphs: a small network's kernels take a program longer to start than a GPU to run."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

AS_WRITTEN = 3  # calls before the recording: what is allocated once (an optimizer's moments) is there by then


class Recorded:
    """A function of tensors on a GPU whose kernels are recorded once and started together from then on.

    It may change tensors in place, which stay where they are; a number that changes has to be one of them.
    """

    def __init__(self, function: Callable[..., Sequence[Tensor]]):
        self.function, self.graph, self.calls = function, None, 0

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        if self.graph is None:
            return self.as_written(inputs)
        for kept, given in zip(self.inputs, inputs):
            kept.copy_(given)
        self.graph.replay()
        return [out.clone() for out in self.outputs]

    def as_written(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            result = list(self.function(*inputs))
        torch.cuda.current_stream().wait_stream(stream)
        self.calls += 1
        if self.calls == AS_WRITTEN:
            self.inputs = [part.clone() for part in inputs]
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self.outputs = self.function(*self.inputs)
            self.graph = graph
        return result
