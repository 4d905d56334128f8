"""A folder for each of several fits: those of a script, or of an experiment."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from fitcore.checkpoint.config import Checkpoint
from fitcore.checkpoint.saver import Preempted
from fitcore.checkpoint.store import CheckpointError, Store
from fitcore.cluster import role

_MANIFESTS = "*-step-*/manifest.json"


class Folders:
    """The folders DIR/NAME, and the lock on DIR: one process at a time.

    Args:
      directory: DIR; created if missing.
      every, keep: as in `Checkpoint`.
      resume: as in `Checkpoint`, but of all fits together: "must" refuses a DIR without a single checkpoint, "never" one with
        any. A fit that was not reached before begins.

    Raises:
      ValueError: for values that make no sense.
      CheckpointInUseError: another process has locked DIR.
      CheckpointError: `resume` forbids it.
      OSError: DIR can't be created or written in.
    """

    def __init__(self, directory: str | os.PathLike[str], every: str, resume: str = "auto", keep: int = 1) -> None:
        self.directory, self.resume = Path(directory), resume
        self._common = Checkpoint(directory, every, keep, resume)
        self._lock = Store(directory, role.is_chief())
        found = any(self.directory.rglob(_MANIFESTS))
        refused = {
            "must": None if found else "holds no checkpoint",
            "never": "holds checkpoints, and nothing is overwritten: name another folder, or delete it" if found else None,
        }.get(resume)
        if refused:
            self.close()
            raise CheckpointError(f'resume="{resume}": {self.directory} {refused}.')

    def of(self, name: str) -> Checkpoint:
        """Where the fit called `name` saves itself."""
        resume = "auto" if self.left(name) is None else self.resume
        return dataclasses.replace(self._common, directory=self.directory / name, resume=resume)

    def left(self, name: str) -> str | None:
        """Where in the outer loop the fit called `name` was last saved, as state.py has it; None if it never was."""
        newest = max((self.directory / name).glob(_MANIFESTS), default=None)
        if newest is None:
            return None
        try:
            return str(json.loads(newest.read_text())["manifest"]["where"])
        except (OSError, ValueError, LookupError):
            return "damaged"  # the fit itself says more

    def close(self) -> None:
        """Let another process have them."""
        self._lock.close()


@contextlib.contextmanager
def leaving_when_preempted() -> Iterator[None]:
    """Within it SIGTERM ends the process with status 75 between fits too: what has finished is saved."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise Preempted

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
