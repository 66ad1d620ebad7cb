"""How many images a run takes at a time, and what the device's memory held."""

import sys

import torch

USUAL = 16
FIRST, MOST = 4, 256  # of batches that grow: a killed run loses one batch


class Batches:
    """The size of the next batch: fixed, or doubled after every batch that fitted, until one does not.

    Every batch is one of the run's own: nothing is computed only to find the size.

    Attributes:
        size: of the next batch.
        finds: whether a batch that does not fit is tried again at half its size.
    """

    def __init__(self, size: int, finds: bool = False):
        self.size, self.finds, self.grows = size, finds, finds

    def fitted(self, count: int) -> None:
        """A batch of `count` images is done."""
        if self.grows and count >= self.size:
            self.size = min(2 * self.size, MOST)

    def did_not_fit(self, count: int) -> None:
        """Half of that from now on.

        Raises:
            OSError: the size is fixed, or one image is too large.
        """
        if not self.finds or count == 1:
            advice = f"try batch_size={count // 2} or auto" if count > 1 else "docs/running.md has what takes less"
            raise OSError(f"the device's memory does not hold a batch of {count}; {advice}")
        self.size, self.grows = count // 2, False


def batches(asked: int | str | None, cpu_batch: int, device: torch.device) -> Batches:
    """What `batch_size` asks for. On a CPU as many as the network sees at a time, unless a number is given: a larger
    batch is no faster there, and a killed run has saved more.

    Args:
        asked: a number, auto, or None.
        cpu_batch: of the prior (`dsg.priors.base.Prior`).
    """
    if asked not in (None, "auto"):
        return Batches(asked)
    if device.type == "cpu":
        return Batches(cpu_batch or USUAL)
    return Batches(FIRST, finds=True) if asked == "auto" else Batches(USUAL)


def forget_peak(device: torch.device) -> None:
    """The next `peak_memory` is of what comes from here on, where the device can tell."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> float | None:
    """GiB: of tensors on a GPU since `forget_peak`; elsewhere of the process since it began, where the system tells."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
