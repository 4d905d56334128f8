"""Sums over a batch's rows of per-example gradients: at once or in chunks, of all rows or of some."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from fitcore import keras_private
from fitcore.noise.config import GradientNoise
from fitcore.noise.factors import Factor
from fitcore.noise.plan import Weight, in_words, path_of, weight_factors
from fitcore.noise.together import Pieces, flat_deviations, is_flat, scalars

CHUNK_BYTES = 32 << 20  # per-example gradients that are multiplied out take about this much memory at a time


class Examples:
    """The rows of one batch, or of a replica's part of it, while a step is traced.

    Args:
      config: how they are measured.
      replicas: how many have such a part.
      rows: a tensor that has the batch's rows.
      batch: how many, if known.
      how: how each weight is measured, by its path; that only some rows are is noted there.
    """

    def __init__(self, config: GradientNoise, replicas: int, rows: Any, batch: int | None, how: dict[str, str]) -> None:
        self._config, self._replicas = config, replicas
        self._rows, self._batch = rows, batch
        self._how = how

    def deviations(
        self,
        weights: Sequence[Weight],
        means: dict[int, tf.Tensor],
        by_tap: dict[int, Any],
        squares: dict[int, tf.Tensor],
    ) -> tuple[Pieces, set[int], dict[int, str]]:
        """The sums over i of |J_i - mean|^2, or, for those in the set, of |J_i|^2. Means and places are by the variables' ids.

        The dict has those for which it can't be done, as only trying it shows, and why not: rules meet layers set up in ways
        they don't know, and the fallback ops that TensorFlow can't vectorize. What was traced of them is never run.

        With `evidence` the sums of squares of all entries are put into `squares`.
        """
        rows = tf.shape(self._rows)[0]
        failed: dict[int, str] = {}
        groups = []
        for group in _connected(weights):
            try:
                groups.append((group, weight_factors(group, by_tap, self._batch)))
            except keras_private.NotDrawableError:
                raise  # this trace is given up, for one without XLA
            except Exception as error:
                failed |= {id(weight.variable): _failure(weight, error) for weight in group}
        known = self._batch is not None  # else nothing says that their rows are equally many
        flat = [fs for _, fs in groups if known and all(map(is_flat, fs.values())) and self._in_one(_need(fs))]
        pieces = flat_deviations({key: f for factors in flat for key, f in factors.items() if f is not None})
        others: dict[int, tf.Tensor] = {}
        for group, factors in groups:
            undivided = any(s.rule is not None and s.rule.whole_batch for weight in group for s in weight.sources)
            taken = any(factors is each for each in flat)
            try:
                sums = {} if taken else self._sums_of(group, factors, means, by_tap, undivided)
                found = self._squares(group, by_tap, factors, undivided) if self._config.evidence else {}
            except keras_private.NotDrawableError:
                raise  # this trace is given up, for one without XLA
            except Exception as error:
                failed |= {id(weight.variable): _failure(weight, error) for weight in group}
                continue
            if self._batch is None:  # sizes are not known while tracing: whether rows are examples is seen in the step
                # Of the gradients: one reader more of the taps would keep TensorFlow from fusing what they are a part of.
                deltas = [by_tap.get(id(tap)) for weight in group for source in weight.sources for tap in source.taps]
                firsts = [tf.shape(tf.convert_to_tensor(delta))[0] for delta in deltas if delta is not None]
                aligned = tf.reduce_all(tf.equal(tf.stack([rows, *firsts]), rows))
                sums = {key: tf.where(aligned, value, np.nan) for key, value in sums.items()}
                found = {key: tf.where(aligned, value, np.nan) for key, value in found.items()}
            squares |= found
            others |= {key: tf.zeros([]) for key, factor in factors.items() if factor is None} | sums
        ghosts = {key for _, factors in groups for key, f in factors.items() if f is not None and not f.centred}
        return pieces + scalars(others), ghosts - set(failed), failed

    def _sums_of(
        self,
        group: Sequence[Weight],
        factors: dict[int, Factor | None],
        means: dict[int, tf.Tensor],
        by_tap: dict[int, Any],
        undivided: bool,
    ) -> dict[int, tf.Tensor]:
        """A group's sums, by the variable's id: of all rows, or of some and scaled up."""
        there = {key: factor for key, factor in factors.items() if factor is not None}
        stride = 1 if undivided or all(map(is_flat, factors.values())) else self._stride()
        whole = isinstance(stride, int) and stride == 1
        if undivided or self._in_one(_need(factors), stride if isinstance(stride, int) else 1):
            measured = factors if whole else weight_factors(group, by_tap, self._batch, slice(None, None, stride))
            sums = _sums(measured, means)
        else:
            zeros = {key: tf.zeros([], tf.float64) for key in there}
            most = _rows_at_once(_need(factors))
            sums = self._in_chunks(group, by_tap, lambda fs: _sums(fs, means), zeros, stride, most)
        if whole:
            return sums
        for weight in group:
            self._how[path_of(weight.variable)] = f"{weight.how}; {self._some_rows(stride)}"
        rows = tf.shape(self._rows)[0]
        share = tf.math.divide_no_nan(tf.cast(rows, tf.float64), tf.cast((rows + stride - 1) // stride, tf.float64))
        return {key: tf.cast(value, tf.float64) * share for key, value in sums.items()}

    def _in_one(self, need: int, stride: int = 1) -> bool:
        """Whether every `stride`-th row can be measured at once, if each takes `need` bytes."""
        return _rows_at_once(need) >= (self._batch or 1024) / stride

    def _stride(self) -> Any:
        """Every so many-th row is measured where `examples` limits them: an int, or a tensor if the batch's size is unknown."""
        if self._config.examples is None:
            return 1
        most = -(-self._config.examples // self._replicas)
        if self._batch is not None:
            return max(-(-self._batch // most), 1)
        return tf.maximum((tf.shape(self._rows)[0] + most - 1) // most, 1)  # a replica may have no rows

    def _some_rows(self, stride: Any) -> str:
        if self._batch is None:
            return f"at most {self._config.examples} rows of a batch"
        return f"{-(-self._batch // stride) * self._replicas} of {self._batch * self._replicas} rows"

    def _squares(
        self, group: Sequence[Weight], by_tap: dict[int, Any], factors: dict[int, Factor | None], undivided: bool
    ) -> dict[int, tf.Tensor]:
        """Sum over all rows of the squares of J_i's entries, by the variable's id."""
        there = {key: factor for key, factor in factors.items() if factor is not None}
        need = sum(factor.bytes_for_squares for factor in there.values())
        if undivided or self._in_one(need):
            return _squares(there)
        zeros = {id(w.variable): tf.zeros(w.variable.shape, _wide_type(w.variable)) for w in group if id(w.variable) in there}
        return self._in_chunks(group, by_tap, _squares, zeros, 1, _rows_at_once(need))

    def _in_chunks(
        self,
        group: Sequence[Weight],
        by_tap: dict[int, Any],
        compute: Callable[[dict[int, Factor | None]], dict[int, tf.Tensor]],
        zeros: dict[int, tf.Tensor],
        stride: Any,
        most: int,
    ) -> dict[int, tf.Tensor]:
        """`compute` summed over chunks of so many rows at a time, of every `stride`-th row, starting from `zeros`."""
        rows = tf.shape(self._rows)[0]

        def body(start: tf.Tensor, totals: list[tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
            end = tf.minimum(start + most * stride, rows)
            sums = compute(weight_factors(group, by_tap, self._batch, slice(start, end, stride)))
            return start + most * stride, [total + tf.cast(sums[key], total.dtype) for total, key in zip(totals, zeros)]

        start = (tf.constant(0), list(zeros.values()))
        _, totals = tf.while_loop(lambda start, totals: start < rows, body, start, parallel_iterations=1)
        return dict(zip(zeros, totals))


def _failure(weight: Weight, error: Exception) -> str:
    return f"{weight.how} ends in {in_words(error)}"


def _need(factors: Mapping[int, Factor | None]) -> int:
    """Bytes that the factors' `deviations` take for each row."""
    return sum(factor.bytes_per_example for factor in factors.values() if factor is not None)


def _rows_at_once(need: int) -> int:
    return max(CHUNK_BYTES // max(need, 1), 1)


def _sums(factors: dict[int, Factor | None], means: dict[int, tf.Tensor]) -> dict[int, tf.Tensor]:
    return {key: factor.deviations(means.get(key, 0.0)) for key, factor in factors.items() if factor is not None}


def _squares(factors: Mapping[int, Factor | None]) -> dict[int, tf.Tensor]:
    return {key: factor.squares() for key, factor in factors.items() if factor is not None}


def _wide_type(variable: Any) -> tf.DType:
    return tf.float64 if tf.as_dtype(variable.dtype) == tf.float64 else tf.float32


def _connected(weights: Sequence[Weight]) -> list[list[Weight]]:
    """Weights in groups that share calls, so that a call's rule is traced once."""
    groups: list[tuple[set[int], list[Weight]]] = []
    for weight in weights:
        ids, members = {id(source) for source in weight.sources}, [weight]
        apart = []
        for known, others in groups:
            if known & ids:
                ids, members = ids | known, others + members
            else:
                apart.append((known, others))
        groups = [*apart, (ids, members)]
    return [members for _, members in groups]
