"""Deciding how each weight's noise is measured: by rule, by the vectorized fallback, or by splitting the batch."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from fitcore.noise import fallback
from fitcore.noise.calls import Call, Rule, cut_rows, rule_of
from fitcore.noise.factors import Factor, combine
from fitcore.noise.watch import Watch, uses

SPLIT, REPLICAS = "split", "replicas"  # how those are measured that are not measured per example


@dataclass(frozen=True, eq=False)
class Source:
    """A call from which some weights' per-example gradients can be had, by a rule or else the fallback."""

    call: Call
    rule: Rule | None
    taps: tuple[Any, ...]

    def describe(self) -> str:
        kind = type(self.call.layer).__name__
        if self.rule is None:
            return f"{kind}: vectorized fallback"
        return f"{kind}: {self.call.notes.get('how', self.rule.label)}"


@dataclass(frozen=True)
class Weight:
    """How one weight is measured.

    Attributes:
      variable: the weight.
      layer: path of the layer it belongs to.
      sources: the calls that use it; empty: by splitting the batch, or across replicas.
      how: in words.
    """

    variable: Any
    layer: str
    sources: tuple[Source, ...]
    how: str


def plan(
    watch: Watch, variables: Sequence[Any], estimator: str, loss: tf.Tensor, batch: int | None, otherwise: str
) -> list[Weight]:
    """How each of `variables` is measured.

    Args:
      watch: the noted forward pass.
      variables: the trainable variables.
      estimator: as in `GradientNoise`.
      loss: what is differentiated. Uses that it doesn't depend on have no gradient: an assignment, say.
      batch: rows in the batch, if known while tracing.
      otherwise: how those are measured that can't be measured per example: SPLIT or REPLICAS.
    """
    ops, needed = watch.graph.get_operations(), _needed(loss)
    numbers = {id(op): i for i, op in enumerate(ops) if id(op) in needed}
    sources: dict[tuple[int, bool], Source] = {}  # by call, and whether by rule
    return [_weight(watch, variable, estimator, numbers, batch, ops, sources, otherwise) for variable in variables]


def _needed(loss: tf.Tensor) -> set[int]:
    """Ids of the ops whose values the loss is computed from."""
    found: set[int] = set()
    unseen = [loss.op]
    while unseen:
        op = unseen.pop()
        if id(op) not in found:
            found.add(id(op))
            unseen += [tensor.op for tensor in op.inputs]
    return found


def _weight(
    watch: Watch,
    variable: Any,
    estimator: str,
    numbers: dict[int, int],
    batch: int | None,
    ops: Sequence[Any],
    sources: dict[Any, Source],
    otherwise: str,
) -> Weight:
    layer = owner(variable)
    if estimator == otherwise:
        return Weight(variable, layer, (), otherwise)
    used = uses(watch, variable, numbers)
    if used.elsewhere:
        return split_instead(variable, layer, estimator, otherwise, "used outside any layer's call")
    found: dict[int, Source] = {}
    for call in used.calls:
        try:
            source, reason = _by_rule(call, variable, batch, sources), ""
        except Exception as error:  # whatever a rule makes of a layer that was set up in a way it doesn't know
            source, reason = None, f"its rule ends in {in_words(error)}, "
        if source is None:
            why = fallback.why_not(call, batch, ops)
            if why is not None:
                reason = reason or f"no rule for this use in {type(call.layer).__name__}, "
                reason = f"{reason}and {why}"
                return split_instead(variable, layer, estimator, otherwise, reason)
            source = sources.setdefault((id(call), False), Source(call, None, tuple(fallback.taps(call))))
        found[id(source)] = source
    how = "; ".join(sorted({source.describe() for source in found.values()})) or "nothing depends on it"
    return Weight(variable, layer, tuple(found.values()), how + (f", {len(found)} uses" if len(found) > 1 else ""))


def _by_rule(call: Call, variable: Any, batch: int | None, sources: dict[Any, Source]) -> Source | None:
    """The rule for this use, of the layer itself or of one around it: a cell's weights are its RNN's."""
    around: Call | None = call
    while around is not None:
        rule = rule_of(around.layer)
        if rule is not None and id(variable) in rule.variables(around.layer) and rule.applies(around):
            known = sources.get((id(around), True))
            if known is not None:
                return known
            taps = tuple(rule.taps(around))
            if taps and all(t.shape.rank and t.shape[0] == batch for t in taps):
                return sources.setdefault((id(around), True), Source(around, rule, taps))
        around = around.parent
    return None


def split_instead(variable: Any, layer: str, estimator: str, otherwise: str, reason: str) -> Weight:
    """How a weight is measured that can't be measured per example.

    Raises:
      ValueError: the estimator must be that one.
    """
    if estimator == "per_example":
        raise ValueError(
            f"`estimator='per_example'`: {path_of(variable)} can't be measured per example: {reason}. "
            f"Use estimator='auto' or '{otherwise}', or give its layer a rule (`fitcore.per_example`)."
        )
    return Weight(variable, layer, (), f"{otherwise}: {reason}")


def in_words(error: Exception) -> str:
    """An error in one line, without what Keras and AutoGraph write around it."""
    lines = [re.sub(r"\x1b\[\d+m", "", line).strip() for line in str(error).splitlines()]
    lines = [line for line in lines if line] or [""]
    told = lines[0]
    if told.startswith("in user code"):
        told = lines[-1]
    elif told.startswith("Exception encountered when") and len(lines) > 1:
        told = lines[1]
    return told[:200] if told.startswith(type(error).__name__) else f"{type(error).__name__}: {told[:200]}"


def path_of(variable: Any) -> str:
    """The variable's path; a name, where it is not Keras's."""
    path: str = getattr(variable, "path", variable.name)
    return path


def owner(variable: Any) -> str:
    """Path of the layer a variable belongs to."""
    path = path_of(variable)
    return path.rpartition("/")[0] or path


def weight_factors(
    weights: Sequence[Weight], deltas: dict[int, Any], batch: int | None, cut: slice | None = None
) -> dict[int, Factor | None]:
    """The factor of each weight, by the variable's id; None where no gradient reaches it.

    Args:
      weights: weights that are not split.
      deltas: the gradient at each tap, by the tap's id.
      batch: rows in the batch, if known while tracing.
      cut: which rows; None: all.
    """
    parts: dict[int, list[Factor]] = {id(weight.variable): [] for weight in weights}
    for source in {id(s): s for weight in weights for s in weight.sources}.values():
        found = [deltas.get(id(tap)) for tap in source.taps]
        if all(delta is None for delta in found):
            continue  # a call whose result nobody uses
        found = [None if delta is None else tf.convert_to_tensor(delta) for delta in found]
        call, rows = source.call, batch
        if cut is not None:
            keep = functools.partial(cut_rows, rows=cut, batch=batch)
            call = call.rows(keep)
            found = [None if delta is None else keep(delta) for delta in found]
            rows = next(delta for delta in found if delta is not None).shape[0]
        here = [weight.variable for weight in weights if source in weight.sources]
        if source.rule is None:
            for variable, factor in zip(here, fallback.factors(call, found, here, rows)):
                parts[id(variable)].append(factor)
        else:
            given, names = source.rule.factors(call, found), source.rule.variables(call.layer)
            for variable in here:
                parts[id(variable)].append(given[names[id(variable)]])
    return {key: combine(factors) if factors else None for key, factors in parts.items()}
