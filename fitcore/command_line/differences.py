"""Where two runs differ, from what they recorded of their fits and returned. Needs no TensorFlow.

A fit is what history.json has of it: "epoch", "history", "first_step", "steps" and "digests".
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_NOTHING = "nothing"
Names = tuple[str, str]  # what the two runs are called


@dataclass(frozen=True)
class Difference:
    """Where two runs differ, in one fit or in their results.

    Attributes:
      place: the fit's name, or "result.json".
      says: all that differs there, in words.
      step: the first step of which something recorded differs; None if nothing does.
      epoch: the first epoch at whose end a variable differs; None if none does.
      variable: of those that differ then, the first in the model's order.
    """

    place: str
    says: str
    step: int | None = None
    epoch: int | None = None
    variable: str | None = None


def in_fit(name: str, before: Mapping[str, Any] | None, now: Mapping[str, Any] | None, runs: Names) -> Difference | None:
    """Where a fit of the two runs differs; None if all bits are the same. Of a run that has no fit so called, give None."""
    if before is None or now is None:
        return Difference(name, f"only one has this fit ({runs[before is None]})")
    says, step, epoch, variable = [], None, None, None
    first_epoch = int(before["epoch"][0]) if before["epoch"] else 0
    curves = _places(before["steps"], now["steps"])
    if curves:
        curve, place = min(curves.items(), key=lambda item: (item[1], item[0] != "step/loss"))
        step = before["first_step"] + place
        says.append(f"step {step}, {curve} {_at(before['steps'], now['steps'], curve, place, runs)}")
    digests = _places(before["digests"], now["digests"]) if "digests" in before and "digests" in now else {}
    if digests:
        variable, place = min(digests.items(), key=lambda item: item[1])
        epoch = first_epoch + place
        others = list(digests.values()).count(place) - 1
        says.append(f"variable {variable}{f' and {others} more' if others else ''} from epoch {epoch} on")
    history = _places(before["history"], now["history"])
    if history:
        metric, place = min(history.items(), key=lambda item: item[1])
        values = _at(before["history"], now["history"], metric, place, runs)
        says.append(f"History of epoch {first_epoch + place}, {metric} {values}")
    return Difference(name, "; ".join(says), step, epoch, variable) if says else None


def in_result(before: Mapping[str, Any], now: Mapping[str, Any], runs: Names) -> Difference | None:
    """Where the two results differ, given their `leaves`."""
    different = [name for name in {**before, **now} if not same(before.get(name, _NOTHING), now.get(name, _NOTHING))]
    if not different:
        return None
    first, more = different[0], f" and {len(different) - 1} more" if len(different) > 1 else ""
    return Difference("result.json", f"{first}{more}, {_words(before.get(first, _NOTHING), now.get(first, _NOTHING), runs)}")


def _places(before: Mapping[str, Sequence[Any]], now: Mapping[str, Sequence[Any]]) -> dict[str, int]:
    """Of the lists that differ, by name, the first place where they do; where one has ended, or isn't there, they do."""
    found = {}
    for name in {**before, **now}:
        pairs = itertools.zip_longest(before.get(name, ()), now.get(name, ()), fillvalue=_NOTHING)
        place = next((i for i, (a, b) in enumerate(pairs) if not same(a, b)), None)
        if place is not None:
            found[name] = place
    return found


def _at(before: Mapping[str, Sequence[Any]], now: Mapping[str, Sequence[Any]], name: str, place: int, runs: Names) -> str:
    values = [run[name][place] if place < len(run.get(name, ())) else _NOTHING for run in (before, now)]
    return _words(values[0], values[1], runs)


def _words(before: Any, now: Any, runs: Names) -> str:
    return f"{before} ({runs[0]}) and {now} ({runs[1]})"


def same(before: Any, now: Any) -> bool:
    """Whether two values out of JSON were the same bits: NaN is NaN, and 0.0 is not -0.0."""
    return repr(before) == repr(now)


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """(where it is, value) of all that a result holds but measured times."""
    if isinstance(value, Mapping):
        if value.get("timed") is not True:
            for key, held in value.items():
                if "seconds" not in key:
                    yield from leaves(held, f"{name}.{key}" if name else key)
    elif isinstance(value, list):
        for i, held in enumerate(value):
            yield from leaves(held, f"{name}[{i}]")
    else:
        yield name, value
