"""Schedules: hyperparameters that follow the step.

functions.py        what a schedule is, and the ready-made ones, each a function of the step
each_epoch.py       a learning rate that follows the epoch
hyperparameters.py  how schedules get to the optimizer: what can be scheduled, base values, the step under them
"""

from fitcore.schedules.each_epoch import EachEpoch
from fitcore.schedules.functions import (
    Chain,
    Constant,
    Cosine,
    CosineRestarts,
    Exponential,
    InverseTime,
    KerasSchedule,
    OneCycle,
    Piecewise,
    Polynomial,
    Schedule,
    Warmup,
    linear,
)

__all__ = [
    "Chain",
    "Constant",
    "Cosine",
    "CosineRestarts",
    "EachEpoch",
    "Exponential",
    "InverseTime",
    "KerasSchedule",
    "OneCycle",
    "Piecewise",
    "Polynomial",
    "Schedule",
    "Warmup",
    "linear",
]
