"""--strategy: the `tf.distribute` strategy that an experiment's models are made under."""

from __future__ import annotations

import os
import sys

import tensorflow as tf

STRATEGIES = ("one", "mirrored", "multiworker")


def make_strategy(name: str | None) -> tf.distribute.Strategy | None:
    """The strategy; None for None. To be called before TensorFlow has run anything. Exits where there can't be one.

    "one": OneDeviceStrategy, on the first GPU if there is one. "mirrored": MirroredStrategy over all GPUs, or the CPU.
    "multiworker": MultiWorkerMirroredStrategy, over the processes that TF_CONFIG names.
    """
    if name is not None:
        tf.get_logger().setLevel("WARNING")  # at absl's level, INFO, each sum over replicas that is traced is a line
    if name == "one":
        return tf.distribute.OneDeviceStrategy("GPU:0" if tf.config.list_physical_devices("GPU") else "CPU:0")
    if name == "mirrored":
        return tf.distribute.MirroredStrategy()
    if name == "multiworker":
        if "TF_CONFIG" not in os.environ:
            sys.exit("--strategy=multiworker: there is no TF_CONFIG. `python -m fitcore.cluster --workers=N -m ...` sets it.")
        return tf.distribute.MultiWorkerMirroredStrategy()
    return None
