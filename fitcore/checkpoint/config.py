"""Where and how often a fit saves itself, and what it does with what it finds there."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

UNITS = ("step", "epoch", "second")
RESUME = ("auto", "must", "never", "force")


@dataclass(frozen=True)
class Checkpoint:
    """Save a fit as it runs, so that the same call goes on from there after the process was killed: with the same bits.

    `fitcore.fit(..., checkpoint=Checkpoint("runs/a/checkpoints"))`. What is saved is all that decides what happens next:
    weights, optimizer, metrics under way, random generators, the place in the data, hooks, callbacks, History and curves.

    Args:
      directory: a folder of its own for this fit; created if missing. One process at a time.
      every: how often, as "500 steps", "2 epochs" or "600 seconds". At steps a compiled call ends there; seconds are looked at
        whenever a compiled call is back, a few times a second. After the last step, and before leaving on SIGTERM or SIGINT, a
        fit saves itself anyway.
      keep: how many checkpoints to keep, at least 1; older ones are deleted.
      resume: what to do at the start. "auto": go on from the newest good checkpoint, or begin if there is none. "must": go on,
        and refuse to begin. "never": begin, and refuse a folder that holds checkpoints. "force": as "auto", but go on, with a
        warning, also where versions or arguments differ from those that saved: the bits may then differ.

    Raises:
      ValueError: for values that make no sense.
    """

    directory: str | os.PathLike[str]
    every: str = "1 epoch"
    keep: int = 2
    resume: str = "auto"

    def __post_init__(self) -> None:
        if not isinstance(self.directory, (str, os.PathLike)):
            raise TypeError(f"`directory` must be a path. Received: directory={self.directory!r}")
        self.interval()
        if isinstance(self.keep, bool) or not isinstance(self.keep, int) or self.keep < 1:
            raise ValueError(f"`keep` must be an int of at least 1. Received: keep={self.keep!r}")
        if self.resume not in RESUME:
            raise ValueError(f"`resume` must be one of {', '.join(RESUME)}. Received: resume={self.resume!r}")

    def interval(self) -> tuple[int, str]:
        """(how many, "step", "epoch" or "second") that `every` says."""
        match = re.fullmatch(r"\s*(\d+)\s*(step|epoch|second)s?\s*", str(self.every))
        if match is None or int(match[1]) < 1:
            raise ValueError(f'`every` must be like "500 steps", "2 epochs" or "600 seconds". Received: every={self.every!r}')
        return int(match[1]), match[2]
