"""Early stopping and budgets: hooks that remember over repeated fits."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fitcore.hooks.in_loop import LoopState, Outcome, StepSeen
from fitcore.hooks.protocol import NEVER, RETURNS, Answer, Hook, Keep, Restore, Stop, View
from fitcore.hooks.stopping import Patience, StopOn


class EarlyStopping(StopOn):
    """Stops when `monitor` hasn't improved for `patience` epochs, and can put the best epoch's weights back.

    In one fit it does what `keras.callbacks.EarlyStopping` does. Unlike that, it remembers from fit to fit: a loop of fits of
    one epoch stops at the same epoch, with the same weights, as one long fit. So it restores weights when it stops, and not, as
    Keras's, at the end of each fit.

    Args:
      monitor: a key of the epoch logs.
      patience, min_delta, mode: as in `Patience`.
      restore_best: end with the weights of the best epoch. They can be had at any time as `kept`, for `model.set_weights`.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        patience: int = 1,
        min_delta: float = 0.0,
        mode: str = "min",
        restore_best: bool = False,
    ) -> None:
        if "/" in monitor:
            raise ValueError(
                f"`monitor` must be a key of the epoch logs; `StopOn` takes values of each step. Received: monitor={monitor!r}"
            )
        super().__init__(Patience(patience, min_delta, mode), monitor)
        self.restore_best = restore_best

    def after_epoch(self, view: View) -> Answer:
        stop: Any = super().after_epoch(view)
        if not self.restore_best:
            return stop
        improved = self.loop_state is not None and self.loop_state["wait"] == 0
        kept = [Keep()] if improved or self.kept is None else []
        return [*kept, *([Restore(), stop] if stop else [])]


@dataclass(frozen=True)
class _Budget:
    """Counts steps and examples, in the loop."""

    steps: int | None
    examples: int | None
    needs = ()
    changes = ()

    def start(self) -> dict[str, float]:
        return {"steps": 0.0, "examples": 0.0}

    def after_step(self, state: LoopState, seen: StepSeen) -> Outcome:
        used = {"steps": state["steps"] + 1, "examples": state["examples"] + seen.examples}
        stop: Any = False
        for name, most in (("steps", self.steps), ("examples", self.examples)):
            stop = stop if most is None else stop | (used[name] >= most)
        return Outcome(used, stop)

    def reason(self, state: Mapping[str, float]) -> str:
        return f"{state['steps']:.0f} steps, {state['examples']:.0f} examples"


class StopAfter(Hook):
    """Stops when a budget is used up. It counts over repeated fits.

    Args:
      steps, examples: stop after the step that uses up the last of them; decided inside the compiled loop.
      seconds: of wall time in fit, validation included; looked at whenever a compiled call is back, a few times a second.
    """

    def __init__(self, steps: int | None = None, examples: int | None = None, seconds: float | None = None) -> None:
        given = {"steps": steps, "examples": examples, "seconds": seconds}
        if all(value is None for value in given.values()):
            raise ValueError("One of `steps`, `examples` and `seconds` is needed. Received: none of them")
        for name, value in given.items():
            if value is not None and not value > 0:
                raise ValueError(f"`{name}` must be above 0. Received: {name}={value}")
        self.in_loop = None if steps is None and examples is None else _Budget(steps, examples)
        self.when = NEVER if seconds is None else RETURNS
        self.seconds = seconds
        self._used = 0.0
        self._since = 0.0

    def begin(self, view: View) -> None:
        self._since = time.monotonic()

    def after_steps(self, view: View) -> Answer:
        return self._check()

    def after_epoch(self, view: View) -> Answer:
        return self._check()

    def end(self, view: View) -> None:
        self._count()

    def state(self) -> dict[str, Any]:
        self._count()
        return {**super().state(), "seconds": self._used}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self._used = state["seconds"]

    def _count(self) -> None:
        now = time.monotonic()
        self._used, self._since = self._used + now - self._since, now

    def _check(self) -> Answer:
        self._count()
        used_up = self.seconds is not None and self._used >= self.seconds
        return Stop(f"{self._used:.1f} seconds of {self.seconds:g}") if used_up else None
