"""Training-free guided diffusion with the spherical Gaussian constraint (DSG)."""

from dsg.api import from_pipeline, guide, load, restore

__all__ = ["from_pipeline", "guide", "load", "restore"]
