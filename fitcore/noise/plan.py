"""Deciding how each weight's noise is measured: by rule, by the vectorized fallback, or by splitting the batch."""

from __future__ import annotations

import functools
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
    watch: Watch, variables: Sequence[Any], estimator: str, loss_end: int, batch: int | None, otherwise: str
) -> list[Weight]:
    """How each of `variables` is measured.

    Args:
      watch: the noted forward pass.
      variables: the trainable variables.
      estimator: as in `GradientNoise`.
      loss_end: number of ops after the loss.
      batch: rows in the batch, if known while tracing.
      otherwise: how those are measured that can't be measured per example: SPLIT or REPLICAS.
    """
    ops = watch.graph.get_operations()[:loss_end]
    numbers = {id(op): i for i, op in enumerate(ops)}
    sources: dict[tuple[int, bool], Source] = {}  # by call, and whether by rule
    return [_weight(watch, variable, estimator, numbers, batch, ops, sources, otherwise) for variable in variables]


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
        return _split(variable, layer, estimator, otherwise, "used outside any layer's call")
    found: dict[int, Source] = {}
    for call in used.calls:
        source = _by_rule(call, variable, batch, sources)
        if source is None:
            reason = fallback.why_not(call, batch, ops)
            if reason is not None:
                reason = f"no rule for this use in {type(call.layer).__name__}, and {reason}"
                return _split(variable, layer, estimator, otherwise, reason)
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


def _split(variable: Any, layer: str, estimator: str, otherwise: str, reason: str) -> Weight:
    if estimator == "per_example":
        raise ValueError(
            f"`estimator='per_example'`: {path_of(variable)} can't be measured per example: {reason}. "
            f"Use estimator='auto' or '{otherwise}', or give its layer a rule (`fitcore.per_example`)."
        )
    return Weight(variable, layer, (), f"{otherwise}: {reason}")


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
