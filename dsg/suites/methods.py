"""What figures and tables want to know of a sampler."""

from dataclasses import dataclass

from dsg.samplers import GuidedSampler, Sampler

LABELS = {
    "unconditional": "unconditional", "dps": "DPS", "freedom": "FreeDoM", "mpgd": "MPGD", "diffrgd": "DiffRGD",
    "trust": "Trust Sampling", "daps": "DAPS", "diffpir": "DiffPIR", "reddiff": "RED-diff", "sitcom": "SITCOM",
    "ddrm": "DDRM", "additive": "DPS, additive",
    "freedom_additive": "FreeDoM, additive", "mpgd_additive": "MPGD, additive",
    "denoise_oracle": "posterior of the prior itself",
}  # fmt: skip
COLORS = {
    "unconditional": "0.6", "dps": "tab:blue", "freedom": "tab:green", "mpgd": "tab:orange", "diffrgd": "tab:red",
    "trust": "tab:purple", "daps": "tab:brown", "diffpir": "tab:pink", "reddiff": "tab:olive", "sitcom": "tab:cyan",
    "ddrm": "goldenrod", "additive": "navy",
    "freedom_additive": "darkgreen", "mpgd_additive": "chocolate", "denoise_oracle": "k",
}  # fmt: skip


@dataclass(frozen=True)
class Method:
    """Attributes:
    name: of the sampler.
    base_method: whom it is compared with; None if with none.
    spherical: whether it is its base method under the spherical constraint (DSG).
    guided: whether a task guides it.
    """

    name: str
    base_method: str | None = None
    spherical: bool = False
    guided: bool = True

    @classmethod
    def of(cls, sampler: Sampler) -> "Method":
        spherical = isinstance(sampler, GuidedSampler) and sampler.spherical
        return cls(sampler.name, sampler.base_method, spherical, sampler.guided)

    @property
    def family(self) -> str:
        """Itself, or the method that it is with the constraint: what gives it its colour."""
        return self.base_method if self.spherical and self.base_method else self.name

    @property
    def label(self) -> str:
        return LABELS.get(self.family, self.family) + (" + DSG" if self.spherical else "")


def style(method: Method) -> dict:
    """For a curve: a colour per family; solid with DSG, dashed without."""
    return {
        "color": COLORS.get(method.family, "k"),
        "linestyle": "-" if method.spherical else "--",
        "marker": "o" if method.spherical else "s",
        "markersize": 4,
        "label": method.label,
    }
