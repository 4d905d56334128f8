"""fitcore: Keras's fit, exactly, as an explicit training loop of compiled steps."""

# ruff: noqa: E402 (python -m fitcore has to start before TensorFlow is loaded)
import fitcore_terminal

for _command in ("runs", "plot", "cluster"):  # they do nothing with TensorFlow: they needn't wait until it is loaded
    if fitcore_terminal.module() == f"fitcore.{_command}":
        import runpy

        _file = "cluster/__main__.py" if _command == "cluster" else f"{_command}.py"
        runpy.run_path(f"{__path__[0]}/{_file}", run_name="__main__")  # ends the process

fitcore_terminal.start(__name__)

import keras

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        f"fitcore runs on Keras's TensorFlow backend; Keras is set to {keras.backend.backend()!r}. "
        "Set KERAS_BACKEND=tensorflow before anything imports keras."
    )

from fitcore import schedules
from fitcore.checking import CheckResult, check
from fitcore.checkpoint import Checkpoint, CheckpointError, Preempted
from fitcore.command_line import registered  # noqa: F401 (gives names)
from fitcore.command_line.registry import make, register
from fitcore.data import Reshuffle, Stream, make_source
from fitcore.engine import Engine
from fitcore.evaluation import evaluate
from fitcore.explain import explain
from fitcore.fitting import fit
from fitcore.hooks import (
    CABS,
    EPOCHS,
    EVERY_STEP,
    NEVER,
    RETURNS,
    Divergence,
    EarlyStopping,
    Evaluate,
    Hook,
    InLoop,
    Keep,
    LoopRule,
    LowSignal,
    NoiseLearningRate,
    NonFinite,
    NormTest,
    Outcome,
    Patience,
    Plateau,
    Progress,
    Restore,
    Save,
    Set,
    Smoothed,
    StepSeen,
    Stop,
    StopAfter,
    StopOn,
    StopRule,
    Target,
    TensorBoard,
    View,
    When,
    every,
)
from fitcore.noise import GradientNoise, per_example
from fitcore.on_batch import test_on_batch, train_on_batch
from fitcore.patch import Patch, patch_keras, unpatch_keras
from fitcore.program import RetraceError
from fitcore.run import StopReason
from fitcore.schedules import EachEpoch
from fitcore.signal_to_noise import gradient_snr
from fitcore.step import RECORDERS, Observation, test_step, train_step

__version__ = "0.2.0.dev0"  # a literal: the build reads it without importing TensorFlow

__all__ = [
    "CABS",
    "EPOCHS",
    "EVERY_STEP",
    "NEVER",
    "RECORDERS",
    "RETURNS",
    "CheckResult",
    "Checkpoint",
    "CheckpointError",
    "Divergence",
    "EachEpoch",
    "EarlyStopping",
    "Engine",
    "Evaluate",
    "GradientNoise",
    "Hook",
    "InLoop",
    "Keep",
    "LoopRule",
    "LowSignal",
    "NoiseLearningRate",
    "NonFinite",
    "NormTest",
    "Observation",
    "Outcome",
    "Patch",
    "Patience",
    "Plateau",
    "Preempted",
    "Progress",
    "Reshuffle",
    "Restore",
    "RetraceError",
    "Save",
    "Set",
    "Smoothed",
    "StepSeen",
    "Stop",
    "StopAfter",
    "StopOn",
    "StopReason",
    "StopRule",
    "Stream",
    "Target",
    "TensorBoard",
    "View",
    "When",
    "check",
    "evaluate",
    "every",
    "explain",
    "fit",
    "gradient_snr",
    "make",
    "make_source",
    "patch_keras",
    "per_example",
    "register",
    "schedules",
    "test_on_batch",
    "test_step",
    "train_on_batch",
    "train_step",
    "unpatch_keras",
]
