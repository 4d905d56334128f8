"""What a check found, and remembering it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fitcore import keras_private, remembered
from fitcore.checkpoint.fingerprint import versions, words
from fitcore.data import Source
from fitcore.engine import Engine

CHECKS = 1  # how a check is made: what an older one found counts no longer


@dataclass(frozen=True)
class CheckResult:
    """What `fitcore.check` found. As a string: in words.

    Attributes:
      identical: whether each of fitcore's trainings ended with the bits of Keras's: weights, optimizer, metrics, seeds,
        whatever else the model leads to, and the History.
      steps: how many each training made.
      trainings: which of fitcore's were compared, in words: "plain", "with noise".
      keras_repeats: whether Keras's own fit, run twice from the same state, ended with the same bits. Otherwise there is
        nothing to compare with, and `identical` is False.
      training: which one differed first; None where none did. Likewise in what follows.
      first_step: the first step after which something differed, counted from 0. None too if it is seen in no single step.
      variable: the first variable that differed then, in the model's order.
      others: how many variables more differed then.
      difference: the largest difference among its numbers.
      layer: the layer that computes otherwise, or, if that wasn't found, that owns the variable.
      operation: what differed first within the step, in words.
      advice: what to do, in words.
      oneDNN: whether TensorFlow had oneDNN on.
      keras, tensorflow: their versions.
      date: when, local time, as "2026-11-30 22:15".
    """

    identical: bool
    steps: int
    trainings: tuple[str, ...]
    keras_repeats: bool = True
    training: str | None = None
    first_step: int | None = None
    variable: str | None = None
    others: int = 0
    difference: float | None = None
    layer: str | None = None
    operation: str | None = None
    advice: str | None = None
    oneDNN: bool = False
    keras: str = ""
    tensorflow: str = ""
    date: str = ""

    def __str__(self) -> str:
        if self.identical:
            return f"bit-identical over {self.steps} steps ({', '.join(self.trainings)})"
        if not self.keras_repeats:
            lines = [
                f"Keras's own fit, run twice from the same state, ends with other bits after {self.steps} steps{self._where()}"
            ]
        else:
            lines = [f"differs from Keras's fit ({self.training}){self._where()}"]
            if self.operation is not None:
                lines.append(f"first other result: {self.operation}")
        return "\n  ".join([*lines, f"what to do: {self.advice}"])

    def in_short(self) -> str:
        """The first line of it, with the time."""
        return f"checked on this machine on {self.date}: {str(self).splitlines()[0]}"

    def _where(self) -> str:
        if self.variable is None:
            return ""
        where = ", seen in no single step" if self.first_step is None else f": first at step {self.first_step}"
        more = f" and {self.others} variables more" if self.others else ""
        by = "" if self.difference is None else f", by up to {self.difference:.3g}"
        of = f" of layer {self.layer}" if self.layer is not None and self.operation is None else ""
        return f"{where}, in {self.variable}{of}{by}{more}"


def here() -> dict[str, Any]:
    """Of a result: when and by what it was found."""
    return {
        "oneDNN": keras_private.onednn_is_on(),
        **versions(),
        "date": time.strftime("%Y-%m-%d %H:%M"),
    }


def key_of(engine: Engine, source: Source | None, given: Mapping[str, Any]) -> str:
    """Of the model, its batches, what was asked for beside the training, this machine and these versions.

    Args:
      engine, source: as in `remembered.about`.
      given: fit's arguments.
    """
    asked = {name: words(given[name]) for name in ("noise", "record")}
    asked["hooks"] = [type(hook).__name__ for hook in given["hooks"]]
    what = {"checks": CHECKS, "asked": asked, "oneDNN": keras_private.onednn_is_on()}
    return remembered.key_of({**remembered.about(engine, source), **what})


def remember(key: str, result: CheckResult) -> None:
    """Keep it on disk."""
    remembered.keep(remembered.cache_file("checks"), key, asdict(result))


def found(key: str) -> CheckResult | None:
    """What a check with this key found on this machine; None if there was none, or it can't be read."""
    kept = remembered.load(remembered.cache_file("checks")).get(key)
    try:
        return None if kept is None else CheckResult(**{**kept, "trainings": tuple(kept["trainings"])})
    except (TypeError, KeyError):
        return None
