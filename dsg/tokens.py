"""What of a prompt a text encoder reads."""

from warnings import warn


def warn_if_cut(tokenizer, prompt: str, most: int) -> None:
    """Warn, in one line, where a prompt has more tokens than a text encoder reads.

    Args:
        tokenizer: of transformers.
        most: tokens that are read, the first and the last of them marks of start and end.
    """
    tokens = tokenizer(prompt, verbose=False)["input_ids"]
    if len(tokens) > most:
        kept = tokenizer.decode(tokens[1 : most - 1]).strip()
        warn(f"a prompt of {len(tokens)} tokens: {most} are read, to '...{kept[-40:]}'", stacklevel=3)
