"""Hooks: what happens beside the steps.

protocol.py     what a hook is: when it needs the host, what it wants recorded, what it is shown, what it may ask for
in_loop.py      rules that decide after each step inside the compiled loop
batch_size.py   a batch size that changes while training
plateau.py      a learning rate that falls when the loss no longer does
stopping.py     stop rules (pure) and the hook that applies one
early_stopping.py, noise_control.py   early stopping and budgets; settings that follow the gradient noise
tensorboard.py  events per step and per epoch, and more to see of a fit; watching.py: what is seen inside the loop for it
progress.py     a line that says how far a fit is
noise_events.py, hparams.py, event_file.py   events of the gradient noise, of a run's flags and results; where all are written
"""

from fitcore.hooks.batch_size import BatchSizeSchedule
from fitcore.hooks.early_stopping import EarlyStopping, StopAfter
from fitcore.hooks.in_loop import SETTINGS, LoopRule, Outcome, Rules, StepSeen, StoppingRule
from fitcore.hooks.noise_control import CABS, LowSignal, NoiseLearningRate, NormTest
from fitcore.hooks.plateau import Plateau
from fitcore.hooks.progress import Progress
from fitcore.hooks.protocol import (
    EPOCHS,
    EVERY_STEP,
    NEVER,
    RETURNS,
    Answer,
    Evaluate,
    Fit,
    Hook,
    InLoop,
    Keep,
    Request,
    Restore,
    Save,
    Set,
    Stop,
    View,
    When,
    every,
    name_of,
)
from fitcore.hooks.stopping import Divergence, NonFinite, Patience, Smoothed, StopOn, StopRule, Target
from fitcore.hooks.tensorboard import TensorBoard

__all__ = [
    "CABS",
    "EPOCHS",
    "EVERY_STEP",
    "NEVER",
    "RETURNS",
    "SETTINGS",
    "Answer",
    "BatchSizeSchedule",
    "Divergence",
    "EarlyStopping",
    "Evaluate",
    "Fit",
    "Hook",
    "InLoop",
    "Keep",
    "LoopRule",
    "LowSignal",
    "NoiseLearningRate",
    "NonFinite",
    "NormTest",
    "Outcome",
    "Patience",
    "Plateau",
    "Progress",
    "Request",
    "Restore",
    "Rules",
    "Save",
    "Set",
    "Smoothed",
    "StepSeen",
    "Stop",
    "StopAfter",
    "StopOn",
    "StopRule",
    "StoppingRule",
    "Target",
    "TensorBoard",
    "View",
    "When",
    "every",
    "name_of",
]
