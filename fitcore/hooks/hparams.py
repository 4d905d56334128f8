"""A run's flags and final metrics as TensorBoard's HParams dashboard reads them."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugins.hparams import summary_v2

from fitcore.hooks.tensorboard import EventFile, writable_folder


def write(directory: str | os.PathLike[str], flags: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
    """Write one row of the HParams table into `directory`, in an event file of its own.

    TensorBoard makes one table of all such folders below its --logdir. They need not have the same flags or metrics; runs with
    equal flags share a row, which has the mean of their metrics. The curves in folders below this one, those of the run's fits,
    are among the metrics too. Written again in the same folder, the newer values count.

    Args:
      directory: the run's folder; created if missing.
      flags: by name; bools, numbers and text are written as such, None is left out, and of all else its text is written.
      metrics: final values by name; real numbers, as float32.

    Raises:
      OSError: if `directory` can't be created or written in.
    """
    shown = {
        name: value if isinstance(value, (bool, int, float, str)) else str(value)
        for name, value in flags.items()
        if value is not None
    }
    event = Event(wall_time=time.time())
    event.summary.ParseFromString(summary_v2.hparams_pb(shown).SerializeToString())
    file = EventFile(writable_folder(directory), [event])
    for name, value in metrics.items():
        file.write(name, [0], [value])
    file.close()
