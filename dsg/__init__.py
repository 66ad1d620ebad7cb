"""Training-free guided diffusion with the spherical Gaussian constraint (DSG)."""

from dsg.api import load, restore

__all__ = ["load", "restore"]
