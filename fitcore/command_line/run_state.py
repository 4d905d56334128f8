"""Whether a run is running, finished, failed or was killed, from its directory. Needs no TensorFlow.

lock         held by the run's process for its life: that a run is running is known, not guessed
status.json  written when `main` has ended, however it did: {"ended": time, "seconds": since the start, "exit": status,
             "error": what it raised, in a line, or null}
result.json  there if `main` returned
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any

RUNNING, FINISHED, FAILED, KILLED = "running", "finished", "failed", "killed"
FLAGS = "flags.txt"  # what makes a folder a run's directory
TIME = "%Y-%m-%dT%H:%M:%S%z"  # how times are written
_ATTEMPTS = 50  # at a lock that a reader holds for a moment


class RunInUseError(OSError):
    """Another process does this run."""


def hold(run: Path) -> int:
    """Lock a run's directory until this process ends; returns the file descriptor.

    Raises:
      RunInUseError: another process holds it.
      OSError: there can't be a lock.
    """
    descriptor = os.open(run / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    # Not a record lock (lockf): a reader in this process, which opens and closes the file, would take that away. But a
    # process that is forked, such as one that loads data, has a part in this one: there it is closed.
    for attempt in range(_ATTEMPTS):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError as error:
            if attempt == _ATTEMPTS - 1:
                os.close(descriptor)
                raise RunInUseError(f"{run}: another process does this run") from error
            time.sleep(0.02)
    os.register_at_fork(after_in_child=lambda: _close(descriptor))
    return descriptor


def release(descriptor: int) -> None:
    """Give up a lock that `hold` has taken."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)  # the descriptor stays: a number that was used again would be closed in forks


def _close(descriptor: int) -> None:
    with contextlib.suppress(OSError):
        os.close(descriptor)


def is_held(run: Path) -> bool:
    """Whether a process does this run just now."""
    try:
        descriptor = os.open(run / "lock", os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def state_of(run: Path) -> str:
    """RUNNING, FINISHED, FAILED (it raised something, or left by sys.exit) or KILLED (by Ctrl-C too)."""
    if is_held(run):
        return RUNNING
    if (run / "result.json").exists():
        return FINISHED
    return FAILED if load(run / "status.json").get("error") else KILLED


def load(path: Path) -> dict[str, Any]:
    """A JSON object in a file; empty where there is none or it can't be read."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
