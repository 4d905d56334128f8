"""Hooks: what happens beside the steps.

protocol.py     what a hook is: when it needs the host, what it wants recorded, what it is shown, what it may ask for
plateau.py      a learning rate that falls when the loss no longer does
stopping.py     stop rules (pure) and the hook that applies one
tensorboard.py  events per step and per epoch
"""

from fitcore.hooks.plateau import Plateau
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
    "Answer",
    "Evaluate",
    "Hook",
    "NonFinite",
    "Patience",
    "Plateau",
    "Request",
    "Save",
    "Set",
    "Stop",
    "StopOn",
    "StopRule",
    "TensorBoard",
    "View",
    "When",
    "every",
]
