"""A batch size that changes while training: by a schedule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from fitcore.hooks.in_loop import LoopState, Outcome, StepSeen


@dataclass(frozen=True)
class BatchSizeSchedule:
    """What `fit(..., batch_size=schedule)` adds.

    Args:
      schedule: index of a step (int64 scalar) -> rows in its batch; traced into the loop.
    """

    schedule: Callable[[tf.Tensor], Any]
    needs = ()
    changes = ("batch_size",)

    def start(self) -> dict[str, float]:
        return {}

    def after_step(self, state: LoopState, seen: StepSeen) -> Outcome:
        return Outcome({}, settings={"batch_size": self.schedule(seen.step + 1)})
