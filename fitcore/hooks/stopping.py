"""Stop rules, and the hook that applies one.

A rule is a pure object: (state, value) in, (new state, reason to stop or None) out. It can be tested, replayed over a
recorded curve, and its state saved.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

from fitcore.hooks.protocol import EPOCHS, EVERY_STEP, Answer, Hook, Stop, View

State = dict[str, Any]  # JSON-able


class StopRule(Protocol):
    """Decides, value by value, whether to stop."""

    def start(self) -> State:
        """The state before any value."""

    def decide(self, state: State, value: float) -> tuple[State, str | None]:
        """(state after `value`, reason to stop or None). Must not change `state`."""


@dataclass(frozen=True)
class Patience:
    """Stop after `patience` values in a row that are no improvement on the best.

    Args:
      patience: how many; at least 1.
      min_delta: an improvement must be larger than this.
      mode: "min" if smaller is better, "max" if larger.
    """

    patience: int
    min_delta: float = 0.0
    mode: str = "min"

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise ValueError(f"`patience` must be at least 1. Received: patience={self.patience}")
        if self.mode not in ("min", "max"):
            raise ValueError(f'`mode` must be "min" or "max". Received: mode={self.mode!r}')

    def start(self) -> State:
        return {"best": None, "wait": 0}

    def decide(self, state: State, value: float) -> tuple[State, str | None]:
        best = state["best"]
        gain = None if best is None else (best - value if self.mode == "min" else value - best)
        if gain is None or gain > self.min_delta:
            return {"best": value, "wait": 0}, None
        wait = state["wait"] + 1
        reason = f"no improvement on {best:.6g} in {wait} values" if wait >= self.patience else None
        return {"best": best, "wait": wait}, reason


@dataclass(frozen=True)
class NonFinite:
    """Stop at the first NaN or infinity."""

    def start(self) -> State:
        return {}

    def decide(self, state: State, value: float) -> tuple[State, str | None]:
        return state, None if math.isfinite(value) else f"the value is {value}"


class StopOn(Hook):
    """Stops training when `rule` says so of `monitor`.

    Its state lives as long as the hook does: over repeated fits it goes on counting.

    Args:
      rule: when to stop.
      monitor: a key of the epoch logs ("val_loss", "loss", ...), or a recorded scalar ("step/loss", ...), which is then
        looked at after every step, with a return to the host for each.
    """

    def __init__(self, rule: StopRule, monitor: str = "val_loss") -> None:
        self.rule = rule
        self.monitor = monitor
        self.per_step = monitor.startswith("step/")
        self.when = EVERY_STEP if self.per_step else EPOCHS
        self.record = (monitor,) if self.per_step else ()
        self._state = rule.start()

    def after_steps(self, view: View) -> Answer:
        return self._decide(float(view.records[self.monitor][-1])) if self.per_step else None

    def after_epoch(self, view: View) -> Answer:
        if self.per_step:
            return None
        if self.monitor not in view.logs:
            raise ValueError(f"`monitor={self.monitor!r}` is not in the epoch's logs, which are {sorted(view.logs)}.")
        return self._decide(float(view.logs[self.monitor]))

    def state(self) -> State:
        return self._state

    def load_state(self, state: State) -> None:
        self._state = state

    def _decide(self, value: float) -> Answer:
        self._state, reason = self.rule.decide(self._state, value)
        return None if reason is None else Stop(f"{self.monitor}: {reason}")
