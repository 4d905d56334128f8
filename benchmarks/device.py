"""The flag --device, which benchmarks share."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from absl import app, flags


def define() -> Any:
    """Define it. Not on import: other commands have a flag of that name too."""
    return flags.DEFINE_enum("device", "cpu", ["cpu", "gpu"], "Where to train.")


def use() -> str:
    """Let TensorFlow use what the flag says, before anything else does; returns it.

    Raises:
      app.UsageError: there is no such device.
    """
    device: str = flags.FLAGS.device
    if device == "gpu" and not tf.config.list_physical_devices("GPU"):
        raise app.UsageError("--device=gpu, but TensorFlow sees no GPU here.")
    if device == "cpu":
        tf.config.set_visible_devices([], "GPU")
    return device
