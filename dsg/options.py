"""Options against the signature of what they build: defaults filled in, unknown names and wrong types found."""

import difflib
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass
from functools import cache
from pkgutil import resolve_name
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from dsg.files import first_line

PLAIN = (NoneType, bool, int, float, str)
WORDS = {bool: "true or false", int: "an integer", float: "a number", str: "text", NoneType: "null"}


class Problem(NamedTuple):
    """What is wrong with the option at `path`; no message: there is no such option."""

    path: str
    message: str | None = None


@cache
def locate(target: str) -> Callable:
    """The class or function of a `_target_`.

    Raises:
        ValueError: if it cannot be imported.
    """
    module, _, name = target.rpartition(".")
    try:
        return resolve_name(f"{module}:{name}")
    except Exception as error:  # whatever the module raises
        try:
            return resolve_name(target)  # a class in a class, or a method
        except (ImportError, AttributeError, ValueError):
            raise ValueError(f"_target_={target} cannot be imported: {first_line(error)}") from None


@cache
def parameters(target: Callable) -> dict[str, inspect.Parameter]:
    """Name -> parameter of what `target` takes; defaults are plain values, or `empty` where they are not."""
    found = dict(inspect.signature(target, eval_str=True).parameters)
    if is_dataclass(target):
        for field in fields(target):
            if field.name in found and field.default_factory is not MISSING:
                found[field.name] = found[field.name].replace(default=field.default_factory())
    return found


def accepts(target: Callable, name: str) -> bool:
    return name in parameters(target) or any(p.kind is p.VAR_KEYWORD for p in parameters(target).values())


def fill(options: dict, kind: Callable, path: str, sources: dict[str, str]) -> dict:
    """`options` with the defaults of the constructor `kind`, in its order; `sources` gets an entry for each default."""
    filled = {k: v for k, v in options.items() if k.startswith("_")}
    prefix = f"{path}." if path else ""
    for name, parameter in parameters(kind).items():
        at = prefix + name
        if name in options:
            filled[name] = _fill_nested(options[name], parameter.annotation, at, sources)
        elif _is_plain(parameter.default):
            filled[name] = _plain(parameter.default)
            sources.update((leaf, "default") for leaf, _ in leaves({name: filled[name]}, path))
    return filled | {k: _fill_nested(v, Any, prefix + k, sources) for k, v in options.items() if k not in filled}


def check(options: dict, kind: Callable, path: str) -> Iterator[Problem]:
    """What is wrong with `options` as arguments of the constructor `kind`: missing, unknown, or of another type."""
    known, prefix = parameters(kind), f"{path}." if path else ""
    for name, value in options.items():
        if name in known:
            yield from _check_value(value, known[name].annotation, prefix + name)
        elif not name.startswith("_") and not accepts(kind, name):
            yield Problem(prefix + name)
    if not options.get("_partial_"):
        required = [n for n, p in known.items() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
        yield from (Problem(prefix + n, f"{prefix}{n} is missing") for n in required if n not in options)


def leaves(options: Mapping, path: str) -> Iterator[tuple[str, Any]]:
    """Path and value of everything under `options`, which is at `path`; mappings are entered, unless they are empty."""
    for key, value in options.items():
        at = f"{path}.{key}" if path else str(key)
        if isinstance(value, Mapping) and value:
            yield from leaves(value, at)
        else:
            yield at, value


def suggestion(name: str, known: Sequence[str]) -> str:
    """`unknown option sampler.step: did you mean sampler.steps?`"""
    parent, _, last = name.rpartition(".")
    same = sorted((k for k in known if k.rpartition(".")[2] == last), key=lambda k: (k.count("."), k))
    beside = {k.rpartition(".")[2]: k for k in known if k.rpartition(".")[0] == parent}
    near = [beside[k] for k in difflib.get_close_matches(last, beside)] + difflib.get_close_matches(name, known)
    found = same[:1] or near[:1]
    return f"unknown option {name}: " + (f"did you mean {found[0]}?" if found else "python run.py --cfg job lists all")


# --- defaults


def _fill_nested(value, annotation, path: str, sources: dict[str, str]):
    if isinstance(value, dict) and "_target_" in value:
        return fill(value, locate(value["_target_"]), path, sources)
    kind = _dataclass_in(annotation)
    if isinstance(value, dict) and kind is not None:
        return fill(value, kind, path, sources)
    if isinstance(value, dict):
        return {k: _fill_nested(v, Any, f"{path}.{k}", sources) for k, v in value.items()}
    return value


def _is_plain(value) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return isinstance(value, PLAIN) or (is_dataclass(value) and not isinstance(value, type))


def _plain(value):
    if is_dataclass(value):
        return _plain(asdict(value))
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return {k: _plain(v) for k, v in value.items()} if isinstance(value, dict) else value


# --- types


def _check_value(value, annotation, path: str) -> Iterator[Problem]:
    kind = _dataclass_in(annotation) or _described(annotation)
    if isinstance(value, dict) and "_target_" in value:
        yield from check(value, locate(value["_target_"]), path)
    elif isinstance(value, dict) and kind is not None:
        yield from check(value, kind, path)
    elif not is_finite(value):
        yield Problem(path, f"{path}={value}: finite numbers only")
    elif not fits(value, annotation):
        yield Problem(path, f"{path}={value}: expected {describe(annotation)}")
    elif value == "" and fits("", annotation) and annotation not in (Any, inspect.Parameter.empty):
        yield Problem(path, f"{path}= is empty (an unset shell variable?): give a value, or null")
    elif isinstance(value, dict):
        for key, below in value.items():
            yield from _check_value(below, Any, f"{path}.{key}")


def is_finite(value) -> bool:
    """Whether a value, or a list's, is no NaN and no infinity: they are no value of any option."""
    if isinstance(value, (list, tuple)):
        return all(map(is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def fits(value, annotation) -> bool:
    """Whether a value, as YAML has them, is of the annotated type. Annotations of other things than values say yes."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return fits(value, args[0])
    if origin in (Union, UnionType):
        return any(fits(value, kind) for kind in args)
    if origin is Literal:
        return value in args
    if annotation in (bool, str, NoneType, None):
        return isinstance(value, NoneType if annotation is None else annotation)
    if annotation in (int, float):
        return isinstance(value, int if annotation is int else (int, float)) and not isinstance(value, bool)
    kind = origin or annotation
    if kind in (Sequence, list, tuple):
        return isinstance(value, list) and all(fits(v, args[0]) for v in value if args)
    if kind in (Mapping, dict):
        return isinstance(value, dict) and all(fits(v, args[1]) for v in value.values() if args)
    return isinstance(value, dict) or not is_dataclass(annotation)


def describe(annotation) -> str:
    """What `fits` asks for, in words."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return next((a for a in args[1:] if isinstance(a, str)), describe(args[0]))
    if origin in (Union, UnionType):
        return " or ".join(map(describe, args))
    if origin is Literal:
        return f"one of {', '.join(map(str, args))}"
    if (origin or annotation) in (Sequence, list, tuple):
        return f"[{describe(args[0])}, ...]" if args else "a list"
    if (origin or annotation) in (Mapping, dict) or is_dataclass(annotation):
        return "{option: value, ...}"
    return WORDS.get(NoneType if annotation is None else annotation, str(annotation))


def _dataclass_in(annotation) -> type | None:
    if is_dataclass(annotation):
        return annotation
    inner = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else ()
    return next((kind for kind in inner if is_dataclass(kind)), None)


def _described(annotation) -> Callable | None:
    """Whose arguments a mapping holds: `Annotated[Mapping, ADMUNet]`."""
    inner = get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
    return next((kind for kind in inner if isinstance(kind, type)), None)
