"""Options against the signature of what they build: defaults filled in, unknown names and wrong types found."""

import difflib
import inspect
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pkgutil import resolve_name
from types import UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin

from pydantic import PydanticSchemaGenerationError, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_jsonable_python

from dsg.files import first_line

WORDS = {
    "boolean": "true or false", "integer": "an integer", "number": "a number", "string": "text", "null": "null",
    "array": "a list",
}  # fmt: skip
MAPPING = "{option: value, ...}"


class Problem(NamedTuple):
    """What is wrong with the option at `path`; no message: there is no such option."""

    path: str
    message: str | None = None


@cache
def locate(target: str) -> Callable:
    """The class or function of a `_target_`.

    Raises:
        ValueError: it cannot be imported.
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
    """Name -> parameter of what `target` takes."""
    found = dict(inspect.signature(target, eval_str=True).parameters)
    for field in fields(target) if is_dataclass(target) else ():
        if field.name in found and field.default_factory is not MISSING:
            found[field.name] = found[field.name].replace(default=field.default_factory())
    return found


def accepts(target: Callable, name: str) -> bool:
    return name in parameters(target) or any(p.kind is p.VAR_KEYWORD for p in parameters(target).values())


def leaves(options: Mapping, path: str = "") -> Iterator[tuple[str, Any]]:
    """Path and value of everything under `options`, which is at `path`; mappings are entered, unless they are empty."""
    for key, value in options.items():
        at = f"{path}.{key}" if path else str(key)
        if isinstance(value, Mapping) and value:
            yield from leaves(value, at)
        else:
            yield at, value


# --- defaults


def fill(options: dict, kind: Callable, path: str, sources: dict[str, str]) -> dict:
    """`options` with the defaults of the constructor `kind`, in its order; `sources` gets an entry for each default."""
    filled, prefix = {k: v for k, v in options.items() if k.startswith("_")}, f"{path}." if path else ""
    for name, parameter in parameters(kind).items():
        if name in options:
            filled[name] = _fill_nested(options[name], parameter.annotation, prefix + name, sources)
            continue
        try:
            filled[name] = to_jsonable_python(parameter.default)
        except PydanticSerializationError:  # there is none, or it is no value of YAML
            continue
        sources.update((leaf, "default") for leaf, _ in leaves({name: filled[name]}, path))
    return filled | {k: _fill_nested(v, Any, prefix + k, sources) for k, v in options.items() if k not in filled}


def _fill_nested(value, annotation, path: str, sources: dict[str, str]):
    if not isinstance(value, dict):
        return value
    if (kind := _nested_kind(value, annotation)) is not None:
        return fill(value, kind, path, sources)
    return {k: _fill_nested(v, Any, f"{path}.{k}", sources) for k, v in value.items()}


def _nested_kind(value: Mapping, annotation) -> Callable | None:
    """Whose constructor a mapping holds all arguments of: its `_target_`'s, or a dataclass in the annotation."""
    if "_target_" in value:
        return locate(value["_target_"])
    return next((kind for kind in (annotation, *get_args(annotation)) if is_dataclass(kind)), None)


def _described_kind(annotation) -> Callable | None:
    """Whose constructor a mapping holds some arguments of: `Annotated[Mapping, ADMUNet]`."""
    return next((kind for kind in getattr(annotation, "__metadata__", ()) if isinstance(kind, type)), None)


# --- problems


def check(options: dict, kind: Callable, path: str) -> Iterator[Problem]:
    """What is wrong with `options` as arguments of the constructor `kind`: unknown, of another type, or missing."""
    known, prefix = parameters(kind), f"{path}." if path else ""
    for name, value in options.items():
        if name in known:
            yield from _check_value(value, known[name].annotation, prefix + name)
        elif not name.startswith("_") and not accepts(kind, name):
            yield from (Problem(leaf) for leaf, _ in leaves({name: value}, path))
    if not options.get("_partial_"):
        required = [n for n, p in known.items() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
        yield from (Problem(prefix + n, f"{prefix}{n} is missing") for n in required if n not in options)


def _check_value(value, annotation, path: str) -> Iterator[Problem]:
    if isinstance(value, dict) and (kind := _nested_kind(value, annotation) or _described_kind(annotation)) is not None:
        yield from check(value, kind, path)
    elif not is_finite(value):
        yield Problem(path, f"{path}={value}: finite numbers only")
    elif not fits(value, annotation):
        yield Problem(path, f"{path}={value}: expected {describe(annotation)}")
    elif value == "" and annotation not in (Any, inspect.Parameter.empty):
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
    """Whether a value of YAML is of the annotated type."""
    try:
        _adapter(annotation).validate_json(json.dumps(value, default=str), strict=True)
    except ValidationError:
        return False
    return True


def describe(annotation) -> str:
    """The annotated type in words."""
    return _in_words(_adapter(annotation).json_schema())


@cache
def _adapter(annotation) -> TypeAdapter:
    return TypeAdapter(_value_type(annotation))


def _value_type(annotation) -> Any:
    """What YAML can hold of the annotated type: of `Mapping[str, Task]` the mapping, of `str | Physics` the text."""
    if annotation is inspect.Parameter.empty:
        return Any
    try:
        TypeAdapter(annotation)
    except PydanticSchemaGenerationError:
        origin = get_origin(annotation)
        if origin in (Union, UnionType):
            known = tuple(kind for kind in map(_value_type, get_args(annotation)) if kind is not Any)
            return Union[known] if known else Any  # noqa: UP007
        return origin if origin in (Mapping, Sequence, dict, list) else Any
    return annotation


def _in_words(schema: Mapping) -> str:
    if "description" in schema and "properties" not in schema:
        return schema["description"]
    if "anyOf" in schema:
        return " or ".join(map(_in_words, schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return f"one of {', '.join(map(str, schema.get('enum', [schema.get('const')])))}"
    if schema.get("items"):
        return f"[{_in_words(schema['items'])}, ...]"
    return WORDS.get(schema.get("type"), MAPPING)


def refuse(problems: Iterable[Problem], known: Iterable[str]) -> None:
    """Raise ValueError for the first option that is unknown, or else wrong.

    Args:
        known: paths of options, the unknown ones may be among them.
    """
    problems = list(problems)
    unknown = [problem.path for problem in problems if problem.message is None]
    if unknown:
        paths = [path.split(".") for path in known if path not in unknown]
        every = {".".join(path[:depth]): None for path in paths for depth in range(1, len(path) + 1)}
        raise ValueError(suggestion(unknown[0], list(every)))
    if problems:
        raise ValueError(problems[0].message)


def suggestion(name: str, known: Sequence[str]) -> str:
    """`unknown option sampler.step: did you mean sampler.steps?`"""
    parent, _, last = name.rpartition(".")
    same = sorted((k for k in known if k.rpartition(".")[2] == last), key=lambda k: (k.count("."), k))
    beside = {k.rpartition(".")[2]: k for k in known if k.rpartition(".")[0] == parent}
    near = [beside[k] for k in difflib.get_close_matches(last, beside)] + difflib.get_close_matches(name, known)
    found = same[:1] or near[:1]
    return f"unknown option {name}: " + (f"did you mean {found[0]}?" if found else "python run.py --cfg job lists all")
