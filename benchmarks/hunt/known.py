"""Kinds of failures that were found already: a further case of such a kind is counted, and not made small again."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.hunt.case import Case
from benchmarks.hunt.trial import Result

# What says nothing about a failure: what the smallest cases have.
_PLAIN_THEMES = ("data", "trained", "input", "fit")
_PLAIN = ("None", "linear", "functional", "keras.Model", "arrays", "none", "float32", "Dense", "Flatten", "mse", "sgd", "SGD")


@dataclass(frozen=True)
class Known:
    """A kind of failure.

    Attributes:
      case: index of the case that showed it.
      variant, verdict: as in `trial.Result`.
      says: its message without numbers.
      traits: what the smallest case that fails so has, beside what every case has.
    """

    case: int
    variant: str
    verdict: str
    says: str
    traits: frozenset[tuple[str, str]]


def kind_of(index: int, small: Case, result: Result) -> Known:
    """The kind of a failure, from its smallest case."""
    return Known(index, result.variant, result.verdict, _without_numbers(result), _traits(small))


def known_as(case: Case, result: Result, known: Iterable[Known]) -> Known | None:
    """The known kind that a failure is of: it says the same, or its case has all that the smallest one had."""
    says, traits = _without_numbers(result), _traits(case)
    for each in known:
        if (each.variant, each.verdict) != (result.variant, result.verdict):
            continue
        if result.verdict == "raises" and each.says.split(":")[0] != says.split(":")[0]:
            continue
        if (result.verdict == "raises" and each.says == says) or (each.traits and each.traits <= traits):
            return each
    return None


def _traits(case: Case) -> frozenset[tuple[str, str]]:
    return frozenset(each for each in case.kinds() if each[0] not in _PLAIN_THEMES and each[1] not in _PLAIN)


def _without_numbers(result: Result) -> str:
    return re.sub(r"[\d.]+(e[-+]\d+)?", "#", result.says)
