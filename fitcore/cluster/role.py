"""Which worker of a cluster this process is, by TF_CONFIG, and how it tells the launcher of itself. Needs no TensorFlow."""

from __future__ import annotations

import json
import os
from pathlib import Path

PREEMPTED = 75  # exit status of one that a signal let save itself; sysexits.h: a temporary failure, to be tried again
BEAT = "FITCORE_BEAT"  # environment variable: the file that a worker touches as long as it gets on


def index() -> int:
    """This process's worker number; 0 without a cluster."""
    task = json.loads(os.environ.get("TF_CONFIG") or "{}").get("task", {})
    return 0 if task.get("type", "chief") == "chief" else int(task.get("index", 0)) + _before_workers()


def is_chief() -> bool:
    """Whether this process is the one that writes: the chief, or worker 0 where there is no chief; without a cluster, it is."""
    return index() == 0


def beat() -> None:
    """Say that this worker gets on: a compiled call is back. `python -m fitcore.cluster` looks out for it; else nothing."""
    if _beat is not None:
        _beat.touch()


def _before_workers() -> int:
    return len(json.loads(os.environ["TF_CONFIG"]).get("cluster", {}).get("chief", ()))


_beat = Path(os.environ[BEAT]) if BEAT in os.environ else None
