"""Pretrained diffusion models, behind the contract of `base.py`."""

from dsg.priors.base import CountedPrior, Prediction, Prior

__all__ = ["CountedPrior", "Prediction", "Prior"]
