"""Samplers: DPS, FreeDoM and MPGD, each with or without DSG, share one loop (`guided.py`); rivals have their own."""

from dsg.samplers.base import Cost, Draw, GuidedState, Noise, Sampler, StepState, Tunable, sample
from dsg.samplers.base_methods import DPS, MPGD, FreeDoM, Unconditional
from dsg.samplers.guided import GuidedSampler

__all__ = [
    "DPS",
    "MPGD",
    "Cost",
    "Draw",
    "FreeDoM",
    "GuidedSampler",
    "GuidedState",
    "Noise",
    "Sampler",
    "StepState",
    "Tunable",
    "Unconditional",
    "sample",
]
