"""Claims, and the rules that turn measurements into verdicts.

A rule is a pure function: named measurements in, a `Verdict` out. Its docstring says in words what it does, and goes into the
report as it stands. No verdict is written down anywhere: other measurements give another one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from experiments.claims.statistics import Effect

SUPPORTED, REFUTED, DEPENDS, NOT_TESTABLE = "supported", "refuted", "depends", "not testable"


@dataclass(frozen=True)
class Verdict:
    """What a rule says of a claim.

    Attributes:
      word: SUPPORTED, REFUTED, DEPENDS or NOT_TESTABLE.
      because: the figures that decided it, in one sentence.
      on: for DEPENDS: on what, in a few words.
    """

    word: str
    because: str
    on: str = ""

    def __post_init__(self) -> None:
        if self.word not in (SUPPORTED, REFUTED, DEPENDS, NOT_TESTABLE):
            raise ValueError(f"`word` must be one of the four verdicts. Received: word={self.word!r}")


@dataclass(frozen=True)
class Claim:
    """A claim and how it is settled.

    Attributes:
      id: "A-a" to "E-d".
      text: what is claimed.
      rule: named measurements (effects, numbers, truths) -> Verdict; its docstring is the rule in words.
      timed: its measurements are seconds, which no two runs share; only the verdict is held to be the same again.
    """

    id: str
    text: str
    rule: Callable[..., Verdict]
    timed: bool = False

    def settle(self, **measurements: Any) -> dict[str, Any]:
        """The claim, its rule, what was measured and the verdict, JSON-able."""
        verdict = self.rule(**measurements)
        return {
            "id": self.id,
            "text": self.text,
            "rule": " ".join((inspect.getdoc(self.rule) or "").split()),
            "timed": self.timed,
            "verdict": verdict.word,
            "on": verdict.on,
            "because": verdict.because,
            "measurements": {name.replace("_", " "): plain(value) for name, value in measurements.items()},
        }


def more_than(effect: Effect, least: float = 0.0) -> bool | None:
    """Whether an effect exceeds `least`: True or False if all of its interval does or doesn't; None: it can't be told."""
    if effect.low > least:
        return True
    return False if effect.high <= least else None


def plain(value: Any) -> Any:
    """A figure as result.json has it: an `Effect` as a dict with its text, NumPy's scalars as Python's."""
    if isinstance(value, Effect):
        return {**asdict(value), "says": str(value)}
    return value.item() if isinstance(value, np.generic) else value
