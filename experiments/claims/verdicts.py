"""Claims, and the rules that turn measurements into verdicts.

A rule is a pure function: named measurements in, a `Verdict` out. Its docstring says in words what it does, and goes into the
report as it stands. No verdict is written down anywhere: other measurements give another one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
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


Truth = bool | None  # None: it can't be told from these data


def more_than(effect: Effect, least: float = 0.0) -> Truth:
    """Whether an effect exceeds `least`: True or False if all of its interval does or doesn't; None: it can't be told."""
    if effect.low > least:
        return True
    return False if effect.high <= least else None


def less_than(effect: Effect, most: float) -> Truth:
    """Whether an effect falls short of `most`, as `more_than`."""
    if effect.high < most:
        return True
    return False if effect.low >= most else None


def both(*truths: Truth) -> Truth:
    """Whether all of these hold."""
    return False if False in truths else None if None in truths else True


def either(*truths: Truth) -> Truth:
    """Whether one of these holds."""
    return True if True in truths else None if None in truths else False


def opposite(truth: Truth) -> Truth:
    """Whether it does not hold."""
    return None if truth is None else not truth


def verdict_of(holds: Mapping[str, Truth], figures: str) -> Verdict:
    """The verdict on a claim by the cases it makes, named such that they can follow "it holds".

    Supported if it holds in all, refuted if in none, depends if in some and not in others; not testable if it can't be told
    where that would decide.
    """
    yes, no = ([case for case, truth in holds.items() if truth is wanted] for wanted in (True, False))
    if len(yes) == len(holds):
        return Verdict(SUPPORTED, figures)
    if len(no) == len(holds):
        return Verdict(REFUTED, figures)
    if yes and no:
        return Verdict(DEPENDS, figures, on=f"the case: it holds {' and '.join(yes)}, not {' or '.join(no)}")
    unknown = ", ".join(case for case in holds if case not in (*yes, *no))
    return Verdict(NOT_TESTABLE, f"with so few seeds it can't be told {unknown}: {figures}")


def plain(value: Any) -> Any:
    """A figure as result.json has it: an `Effect` as a dict with its text, NumPy's scalars as Python's."""
    if isinstance(value, Effect):
        return {**asdict(value), "says": str(value)}
    return value.item() if isinstance(value, np.generic) else value
