"""TensorBoard's HParams table: a line per run, with its flags and the numbers of its result."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugins.hparams import summary, summary_v2

from fitcore.hooks.tensorboard import EventFile


def write(run: Path, flags: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
    """Write a run's line: events in its directory, under the names of flags and metrics.

    Args:
      run: the run's directory.
      flags: values; what is neither a number, a truth nor text goes in as its text.
      metrics: numbers.
    """
    values = {name: value if isinstance(value, (bool, int, float, str)) else str(value) for name, value in flags.items()}
    file = EventFile(str(run))
    for about in (summary_v2.hparams_pb(values, trial_id=str(run)), summary.session_end_pb("STATUS_SUCCESS")):
        event = Event(wall_time=time.time())
        event.summary.ParseFromString(about.SerializeToString())
        file.write_event(event)
    for name, value in metrics.items():
        file.write(name, [0], [value])
    file.close()
