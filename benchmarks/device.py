"""The flag --device, which benchmarks share. Loads TensorFlow only where it is used: some leave that to child processes."""

from __future__ import annotations

import os
from typing import Any

from absl import app, flags


def define() -> Any:
    """Define it. Not on import: other commands have a flag of that name too."""
    return flags.DEFINE_enum("device", "cpu", ["cpu", "gpu"], "Where to train.")


def use() -> str:
    """Let TensorFlow use what the flag says, before anything else does; returns it.

    Raises:
      app.UsageError: there is no such device.
    """
    import tensorflow as tf

    device: str = flags.FLAGS.device
    if device == "gpu" and not tf.config.list_physical_devices("GPU"):
        raise app.UsageError("--device=gpu, but TensorFlow sees no GPU here.")
    if device == "cpu":
        tf.config.set_visible_devices([], "GPU")
    return device


def environment() -> dict[str, str]:
    """What a child process that knows no such flag is started with, to train where the flag says.

    Raises:
      app.UsageError: there is no such device.
    """
    if flags.FLAGS.device == "cpu":
        return {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
    use()
    return dict(os.environ)
