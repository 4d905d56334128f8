"""A run's flags and final metrics as TensorBoard's HParams dashboard reads them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from tensorboard.plugins.hparams import summary, summary_v2

from fitcore.hooks.event_file import EventFile, event_of, writable_folder


def write(directory: str | os.PathLike[str], flags: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
    """Write the row of a run that has ended in the HParams table into `directory`, in an event file of its own.

    TensorBoard makes one table of all such folders below its --logdir. They need not have the same flags or metrics. The
    curves in folders below this one, those of the run's fits, are among the metrics too. Written again in the same folder, the
    newer values count.

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
    file = EventFile(writable_folder(directory), [event_of(summary_v2.hparams_pb(shown, trial_id=os.fspath(directory)))])
    file.write_event(event_of(summary.session_end_pb("STATUS_SUCCESS")))
    for name, value in metrics.items():
        file.write(name, [0], [value])
    file.close()
