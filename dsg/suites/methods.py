"""What tables and figures want to know of a sampler, and how its curve looks."""

from collections.abc import Iterable
from dataclasses import dataclass

from dsg.samplers import Sampler


@dataclass(frozen=True)
class Method:
    """Attributes: see `dsg.samplers.Sampler`, of which they are; `label` is never None."""

    name: str
    base_method: str | None = None
    control: str | None = None
    label: str = ""
    guided: bool = True

    def __post_init__(self):
        object.__setattr__(self, "label", self.label or self.name)

    @classmethod
    def of(cls, sampler: Sampler) -> "Method":
        return cls(sampler.name, sampler.base_method, sampler.control, sampler.label or sampler.name, sampler.guided)

    @property
    def compared_with(self) -> list[str]:
        """Base method and control, by name."""
        return [name for name in (self.base_method, self.control) if name]


LOOKS = {"base method": ("--", "s"), "constrained": ("-", "o"), "control": (":", "^")}


def styles(methods: Iterable[Method]) -> dict[str, dict]:
    """By name, how a curve looks: a colour for a base method, its control and it with DSG, by the order of the methods.

    What no task guides is grey. DSG's lines are solid with circles, controls dotted, all others dashed.
    """
    methods = list(methods)
    base_of = {method.control: method.base_method for method in methods if method.control}
    colors: dict[str, str] = {}
    looks = {}
    for method in methods:
        family = method.base_method if method.control else base_of.get(method.name, method.name)
        if family not in colors:
            colors[family] = f"C{len(colors)}" if method.guided else "0.6"
        role = "constrained" if method.control else "control" if method.name in base_of else "base method"
        line, marker = LOOKS[role]
        looks[method.name] = {
            "color": colors[family], "linestyle": line, "marker": marker, "markersize": 4, "label": method.label
        }  # fmt: skip
    return looks


def styles_in_panel(group: Iterable[Method]) -> dict[str, dict]:
    """Like `styles`, for the few curves of one panel: each has a colour of its own."""
    group = list(group)
    return {method.name: {**styles(group)[method.name], "color": f"C{k}"} for k, method in enumerate(group)}


def families(methods: Iterable[Method], most: int = 6) -> list[list[Method]]:
    """Groups for the panels of a figure: a base method with all that are compared with it; the others together, in
    groups of at most `most`."""
    methods = list(methods)
    heads = [m for m in methods if any(m.name in other.compared_with for other in methods) and not m.base_method]
    groups = [[head, *(m for m in methods if m.base_method == head.name)] for head in heads]
    rest = [m for m in methods if not any(m in group for group in groups)]
    split = [group[k : k + most] for group in [*groups, rest] for k in range(0, len(group), most)]
    return split
