"""What an error says, in one line."""


def first_line(error: BaseException, most: int = 500) -> str:
    """Its first line, of `most` characters; the name of its class where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:most]
