"""What an error says, in one line."""

from yaml import MarkedYAMLError


def first_line(error: BaseException, most: int = 500) -> str:
    """Its first line, of `most` characters; the name of its class where it says nothing; of a YAML file, the place."""
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        return f"{error.problem_mark.name}, line {error.problem_mark.line + 1}: {error.problem}"[:most]
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:most]
