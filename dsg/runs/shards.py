"""Which part of a run this process works on. Sampling needs no communication: shards share nothing but the results
folder."""

import os


def shard_of_this_process() -> tuple[int, int]:
    """(rank, number of processes) as `torchrun` says it in the environment; (0, 1) alone.

    Raises:
        ValueError: an environment that contradicts itself.
    """
    words = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if not all(word.isdecimal() for word in words) or int(words[0]) >= int(words[1]):
        raise ValueError(f"RANK={words[0]}, WORLD_SIZE={words[1]}: expected 0 <= RANK < WORLD_SIZE")
    return int(words[0]), int(words[1])


def local_rank() -> int | None:
    """This process's number on its machine, as `torchrun` says it; None alone.

    Raises:
        ValueError: it is no number.
    """
    if shard_of_this_process()[1] == 1:
        return None
    word = os.environ.get("LOCAL_RANK", "0")
    if not word.isdecimal():
        raise ValueError(f"LOCAL_RANK={word}: expected a number, 0 or more")
    return int(word)
