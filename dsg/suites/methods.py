"""What figures and tables want to know of a sampler."""

from dataclasses import dataclass
from functools import cache
from zlib import crc32

from dsg import config as configs
from dsg.runs.prepare import build
from dsg.samplers import GuidedSampler, Sampler

# by family, in the order of reports; another method gets one of `SPARE`
COLORS = {
    "unconditional": "0.6", "dps": "tab:blue", "freedom": "tab:green", "mpgd": "tab:orange", "diffrgd": "tab:red",
    "trust": "tab:purple", "daps": "tab:brown", "diffpir": "tab:pink", "reddiff": "tab:olive", "sitcom": "tab:cyan",
    "ddrm": "goldenrod", "additive": "navy",
    "freedom_additive": "darkgreen", "mpgd_additive": "chocolate", "denoise_oracle": "k",
}  # fmt: skip
SPARE = ("crimson", "teal", "indigo", "darkkhaki", "deeppink", "slategray", "sienna", "limegreen")


@dataclass(frozen=True)
class Method:
    """Attributes:
    name: of the sampler.
    base_method: whom it is compared with; None if with none.
    spherical: whether it is its base method under the spherical constraint (DSG).
    guided: whether a task guides it.
    label: in tables and figures; "" is the name.
    """

    name: str
    base_method: str | None = None
    spherical: bool = False
    guided: bool = True
    label: str = ""

    def __post_init__(self):
        object.__setattr__(self, "label", self.label or self.name)

    @classmethod
    def of(cls, sampler: Sampler) -> "Method":
        spherical = isinstance(sampler, GuidedSampler) and sampler.spherical
        return cls(sampler.name, sampler.base_method, spherical, sampler.guided, sampler.label or sampler.name)

    @property
    def family(self) -> str:
        """Itself, or the method that it is with the constraint: what gives it its colour."""
        return self.base_method if self.spherical and self.base_method else self.name


@cache
def method_named(name: str) -> Method:
    """The method of configs/sampler/<name>.yaml; of another name no more is known than that."""
    try:
        return Method.of(build(configs.load([f"sampler={name}"]).sampler))
    except ValueError:
        return Method(name)


def color(family: str) -> str:
    """A family's colour, the same in all figures."""
    return COLORS.get(family) or SPARE[crc32(family.encode()) % len(SPARE)]


def style(method: Method) -> dict:
    """For a curve: a colour per family; solid with DSG, dashed without."""
    return {
        "color": color(method.family),
        "linestyle": "-" if method.spherical else "--",
        "marker": "o" if method.spherical else "s",
        "markersize": 4,
        "label": method.label,
    }
