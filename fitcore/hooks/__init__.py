"""Hooks: what happens beside the steps.

protocol.py     what a hook is: when it needs the host, what it wants recorded, what it is shown, what it may ask for
in_loop.py      rules that decide after each step inside the compiled loop
batch_size.py   a batch size that changes while training
stopping.py     stop rules (pure) and the hook that applies one
tensorboard.py  events per step and per epoch
"""

from fitcore.hooks.batch_size import BatchSizeSchedule
from fitcore.hooks.in_loop import SETTINGS, LoopRule, Outcome, Rules, StepSeen
from fitcore.hooks.protocol import (
    EPOCHS,
    EVERY_STEP,
    NEVER,
    RETURNS,
    Answer,
    Evaluate,
    Hook,
    Request,
    Save,
    Set,
    Stop,
    View,
    When,
    every,
)
from fitcore.hooks.stopping import NonFinite, Patience, StopOn, StopRule
from fitcore.hooks.tensorboard import TensorBoard

__all__ = [
    "EPOCHS",
    "EVERY_STEP",
    "NEVER",
    "RETURNS",
    "SETTINGS",
    "Answer",
    "BatchSizeSchedule",
    "Evaluate",
    "Hook",
    "LoopRule",
    "NonFinite",
    "Outcome",
    "Patience",
    "Request",
    "Rules",
    "Save",
    "Set",
    "StepSeen",
    "Stop",
    "StopOn",
    "StopRule",
    "TensorBoard",
    "View",
    "When",
    "every",
]
