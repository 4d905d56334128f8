"""A learning rate that falls when the loss no longer does."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fitcore.command_line.registry import register
from fitcore.hooks.protocol import Answer, Hook, Set, View


@register("schedule", "plateau")
class Plateau(Hook):
    """Multiplies the learning rate by `factor` when `monitor` has not improved for `patience` epochs.

    `keras.callbacks.ReduceLROnPlateau`, whose decisions and bits it has within a fit; but its state lives as long as the hook
    does, over repeated fits and, by `state` and `load_state`, over processes. It looks at the rate of the epoch's last step,
    so it goes with no `schedule` of the learning rate, which would overwrite what it sets.

    Args:
      monitor: a key of the epoch logs.
      factor: in (0, 1).
      patience: epochs, at least 1.
      min_delta: an improvement must be larger than this.
      mode: "min" if smaller is better, "max" if larger.
      cooldown: epochs after a reduction in which none are counted.
      min_lr: the rate falls no lower.

    Raises:
      ValueError: for values that make no sense, or, after an epoch, if its logs have no `monitor`.
    """

    record = ("step/learning_rate",)
    changes = ("learning_rate",)

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        min_delta: float = 1e-4,
        mode: str = "min",
        cooldown: int = 0,
        min_lr: float = 0.0,
    ) -> None:
        if not 0 < factor < 1:
            raise ValueError(f"`factor` must be in (0, 1). Received: factor={factor}")
        if patience < 1:
            raise ValueError(f"`patience` must be at least 1. Received: patience={patience}")
        if mode not in ("min", "max"):
            raise ValueError(f'`mode` must be "min" or "max". Received: mode={mode!r}')
        self.monitor, self.factor, self.patience, self.min_delta = monitor, factor, patience, min_delta
        self.mode, self.cooldown, self.min_lr = mode, cooldown, min_lr
        self._state: dict[str, Any] = {"best": None, "wait": 0, "cooldown": 0}

    def after_epoch(self, view: View) -> Answer:
        if self.monitor not in view.logs:
            raise ValueError(f"`monitor={self.monitor!r}` is not in the epoch's logs, which are {sorted(view.logs)}.")
        value, best = float(view.logs[self.monitor]), self._state["best"]
        cooling = max(self._state["cooldown"] - 1, 0)
        wait = 0 if self._state["cooldown"] else self._state["wait"]
        self._state = {"best": best, "wait": wait, "cooldown": cooling}
        if best is None or self._improves(value, best):
            self._state |= {"best": value, "wait": 0}
            return None
        if cooling:
            return None
        self._state["wait"] = wait + 1
        rate = float(view.records["step/learning_rate"][-1]) if len(view.records["step/learning_rate"]) else math.nan
        if wait + 1 < self.patience or not rate > np.float32(self.min_lr):
            return None
        self._state |= {"wait": 0, "cooldown": self.cooldown}
        return Set("learning_rate", max(rate * self.factor, self.min_lr))

    def _improves(self, value: float, best: float) -> bool:
        """In float32, as Keras compares."""
        if self.mode == "min":
            return bool(np.float32(value + self.min_delta) < np.float32(best))
        return bool(np.float32(value - self.min_delta) > np.float32(best))

    def state(self) -> dict[str, Any]:
        return self._state

    def load_state(self, state: dict[str, Any]) -> None:
        self._state = dict(state)
