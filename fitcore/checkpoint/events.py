"""TensorBoard's event files: what a killed process wrote behind its last checkpoint is taken away."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras

from fitcore.run import Run


@dataclass(frozen=True)
class Owner:
    """A process that trained.

    Attributes:
      pid: its number.
      since: when it began, seconds since 1970.
    """

    pid: int
    since: float


def folders(run: Run) -> list[Path]:
    """Where the run's hooks and callbacks write events."""
    boards = [each for each in run.callbacks.callbacks if isinstance(each, keras.callbacks.TensorBoard)]
    named = [hook.event_folder for hook in run.hooks] + [board.log_dir for board in boards]
    return [Path(folder) for folder in named if folder is not None]


def sizes(folders: Sequence[Path]) -> list[dict[str, int]]:
    """For each folder: the bytes of each event file in it, by its path there."""
    return [{str(path.relative_to(folder)): path.stat().st_size for path in _files(folder)} for folder in folders]


def cut_back(folders: Sequence[Path], sizes: Sequence[Mapping[str, int]], owner: Owner | None, now: float) -> None:
    """Cut files to what they were, and delete those that `owner` began later; but none that this fit writes.

    Args:
      folders: as they were, in their order.
      sizes: what `sizes` gave for each when the checkpoint was made; of none if there is no checkpoint.
      owner: the process that trained before this one.
      now: when this fit began, seconds since 1970.
    """
    for i, folder in enumerate(folders):
        known = sizes[i] if i < len(sizes) else {}
        for path in _files(folder):
            size, found = known.get(str(path.relative_to(folder))), path.stat()
            if size is not None and found.st_size > size:
                os.truncate(path, size)
            elif size is None and owner is not None and _is_of(path, owner) and found.st_mtime < now:
                path.unlink()


def _files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("events.out.tfevents.*"))


def _is_of(path: Path, owner: Owner) -> bool:
    """Whether the process began this file: "events.out.tfevents.SECONDS.HOST.PID.NUMBER.v2" (the host may have dots)."""
    began, _, rest = path.name.removeprefix("events.out.tfevents.").partition(".")
    if not began.isdigit() or int(began) < int(owner.since):
        return False
    return rest.startswith(f"{socket.gethostname()}.{owner.pid}.")
