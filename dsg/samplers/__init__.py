"""Samplers: DPS, FreeDoM and MPGD, each with or without DSG, share one loop (`guided.py`); the others own theirs."""

from dsg.samplers.base import Cost, Draw, Noise, Sampler, StepState, Tunable, sample
from dsg.samplers.guided import DPS, MPGD, FreeDoM, GuidedSampler, GuidedState, Unconditional

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
