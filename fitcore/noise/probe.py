"""Measuring inside the step: from what the forward and backward pass left behind to one row of numbers.

probe.watching(...)     around the forward pass, which it only notes
probe.taps(...)         tensors whose gradients are wanted along with the weights'
probe.measure(...)      the row: [n, then the sums and the squared norms of each entry of `entries`], as
                        `statistics.deviations` takes them; with `evidence` that criterion; with `hessian_every` the three
                        columns of the full noise scale
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fitcore.noise.config import GradientNoise
from fitcore.noise.evidence import criterion
from fitcore.noise.factors import Factor, sum_sq, wide
from fitcore.noise.plan import SPLIT, Weight, path_of, plan, weight_factors
from fitcore.noise.split import Passes, curvature
from fitcore.noise.statistics import deviations
from fitcore.noise.together import Pieces, flat_deviations, in_order, is_flat, moved, norms_sq, scalars
from fitcore.noise.watch import Watch

NOISE_TOTALS = (
    "noise/trace",
    "noise/grad_norm_sq",
    "noise/batch_size",
    "noise/evidence",
)  # what rules inside the loop can read

Bools = np.ndarray[Any, np.dtype[np.bool_]]

CHUNK_BYTES = 32 << 20  # per-example gradients that are multiplied out take about this much memory at a time


@dataclass(frozen=True)
class Entry:
    """One weight's columns of the recorded row.

    Attributes:
      layer: path of the layer it belongs to.
      split: whether measured by splitting the batch.
      ghost: whether its sums are not centred, so that its deviations are a difference of sums of squares.
    """

    layer: str
    split: bool
    ghost: bool


class Probe:
    """Measures one model's gradient noise. Its attributes are filled while the step is traced.

    Attributes:
      entries: what the row's columns are about.
      how: how each weight was measured, by the weight's path.
      weights: how each is measured, in the order of the variables.
      regularized: whether a third column per entry has |G_B|^2 with the regularization in it.
    """

    def __init__(self, model: Any, config: GradientNoise) -> None:
        self.model = model
        self.config = config
        self.entries: list[Entry] = []
        self.how: dict[str, str] = {}
        self.regularized = False
        self._watch: Any = None
        self.weights: list[Weight] = []
        self._batch: int | None = None
        self._rows: Any = None

    def watching(self) -> AbstractContextManager[None]:
        """Note the forward pass made inside. Adds no op to it."""
        if tf.executing_eagerly():
            raise ValueError("Gradient noise is measured inside the compiled step; `run_eagerly` must be off.")
        self._watch = Watch(self.model)
        return self._watch.forward()

    def taps(self, x: Any, variables: Sequence[Any]) -> list[Any]:
        """Plan the measurement, once the loss has been computed; returns the tensors whose gradients it needs."""
        self._rows = next(leaf for leaf in keras.tree.flatten(x) if leaf is not None)
        self._batch = self._rows.shape[0]
        self.weights = plan(self._watch, variables, self.config.estimator, self._watch.ops(), self._batch)
        self.how = {path_of(w.variable): w.how for w in self.weights}
        return list({id(tap): tap for weight in self.weights for source in weight.sources for tap in source.taps}.values())

    def measure(self, seen: Any, taps: Sequence[Any], deltas: Sequence[Any], scaled: bool, parts: Any) -> tf.Tensor:
        """The row of this step, float64; zeros where `every` leaves the step out. To be called before the update.

        Args:
          seen: the step's `fitcore.Observation`.
          taps: what `taps` returned; `deltas`: the gradients there.
          scaled: whether the optimizer's loss scale is in all gradients.
          parts: the step's `Parts`, of which the split estimator makes passes of its own.
        """
        batch = (seen.x, seen.y, seen.sample_weight)
        by_tap = {id(tap): delta for tap, delta in zip(taps, deltas)}
        scale = seen.optimizer.scale_loss(tf.ones([], tf.float32)) if scaled else None
        known = {id(variable) for variable in seen.variables}
        state = [v for v in getattr(self.model, "variables", ()) if isinstance(v, tf.Variable) and id(v) not in known]

        def loss_of(part: Any) -> tf.Tensor:
            x, y, sample_weight = part
            return parts.loss(x, y, parts.forward(x, True), sample_weight, True)

        def row() -> tf.Tensor:
            return self._row(batch, seen.gradients, by_tap, scale, loss_of, state)

        def curved() -> tf.Tensor:
            used = [v for v, gradient in zip(seen.variables, seen.gradients) if gradient is not None]
            others = [v for v in seen.variables if _regularizer(v) is not None and all(v is not u for u in used)]
            with Passes(loss_of, batch, 3, used, others, state) as passes:
                return tf.stack([tf.ones([], tf.float64), *curvature(passes)])

        found = sometimes(seen.step, self.config.every, row, self._width(seen.gradients, by_tap))
        if not self.config.hessian_every:
            return found
        return tf.concat([found, sometimes(seen.step, self.config.hessian_every, curved, 3)], axis=0)

    def totals(self, row: tf.Tensor) -> dict[str, tf.Tensor]:
        """What rules in the loop see of one step, by name, from its row, traced: float64 scalars, NaN if not measured."""
        n, count = row[0], len(self.entries)
        split, ghost = self.kinds
        big = row[1 + count : 1 + 2 * count]
        d = deviations(row[1 : 1 + count], big, n, split, ghost)
        units, size = tf.where(split, tf.cast(self.config.splits, n.dtype), n), tf.where(split, n // self.config.splits, 1.0)
        between = tf.where(tf.logical_and(units >= 2, size >= 1), units - 1, np.nan)
        trace = tf.reduce_sum(size * d / between)  # as `statistics.estimate`
        norm_sq = tf.reduce_sum(big - d / (units * between))
        values = [trace, norm_sq, n]
        if self.config.evidence:
            values.append(row[-4 if self.config.hessian_every else -1])
        return {name: tf.where(n > 0, value, np.nan) for name, value in zip(NOISE_TOTALS, values)}

    @property
    def kinds(self) -> tuple[Bools, Bools]:
        """`split` and `ghost` of all entries."""
        return np.array([e.split for e in self.entries], bool), np.array([e.ghost for e in self.entries], bool)

    # --- one row ----------------------------------------------------------------------------------------------------------

    def _width(self, gradients: Sequence[Any], by_tap: dict[int, Any]) -> int:
        """Length of a row: that of one made in a graph that is thrown away."""
        self._live(gradients, by_tap)
        return 1 + len(self.entries) * (3 if self.regularized else 2) + int(self.config.evidence)

    def _live(self, gradients: Sequence[Any], by_tap: dict[int, Any]) -> list[tuple[Weight, Any]]:
        """The weights that have a gradient, with it; sets `entries` and `regularized`.

        Those whose gradient came by way of nothing that was noted are split.
        """
        for i, (weight, gradient) in enumerate(zip(self.weights, gradients)):
            reached = any(by_tap.get(id(tap)) is not None for source in weight.sources for tap in source.taps)
            if gradient is not None and weight.sources and not reached:
                if self.config.estimator == "per_example":
                    raise ValueError(f"`estimator='per_example'`: the gradient of {weight.layer} bypasses its layer's outputs.")
                how = f"{SPLIT}: its gradient doesn't pass through its layer's outputs"
                self.weights[i] = Weight(weight.variable, weight.layer, (), how)
                self.how[path_of(weight.variable)] = how
        live = [(weight, gradient) for weight, gradient in zip(self.weights, gradients) if gradient is not None]
        self.entries = [Entry(weight.layer, not weight.sources, ghost=False) for weight, _ in live]
        self.regularized = any(_regularizer(w.variable) is not None for w in self.weights)
        return live

    def _row(self, batch: Any, gradients: Any, by_tap: Any, scale: Any, loss_of: Any, plain_state: Any) -> tf.Tensor:
        live = self._live(gradients, by_tap)
        n = tf.cast(tf.shape(self._rows)[0], tf.float64)
        last = [tf.constant([np.nan], tf.float64)] if self.config.evidence else []
        if not live:
            return tf.concat([n[None], *last], axis=0)
        weights = [weight for weight, _ in live]
        penalties = [_penalty(weight.variable, scale) for weight in weights]
        applied = [wide(tf.convert_to_tensor(gradient)) for _, gradient in live]
        data = [g if p is None else g - p for g, p in zip(applied, penalties)]

        exact = {id(weight.variable): k for k, weight in enumerate(weights) if weight.sources}
        squares: dict[int, tf.Tensor] = {}
        means = {key: data[k] for key, k in exact.items()}
        found, ghosts = self._deviations([weights[k] for k in exact.values()], means, by_tap, n, squares)
        sums: Pieces = [([exact[key] for key in keys], vector) for keys, vector in found]
        if self.config.evidence and exact:
            entries = [(squares[key], data[k], applied[k]) for key, k in exact.items() if key in squares]
            last = [criterion(entries, n)[None]]
        split = [k for k, weight in enumerate(weights) if not weight.sources]
        if split:
            measured = [weights[k].variable for k in split]
            others = [w.variable for w in self.weights if _regularizer(w.variable) is not None and w.sources]
            with Passes(loss_of, batch, self.config.splits, measured, others, plain_state) as passes:
                parts = [passes.gradients(j) for j in range(self.config.splits)]
            if _sums_rows(self.model):  # a micro-batch's loss is then a part of the batch's, not an estimate of all of it
                parts = [[self.config.splits * gradient for gradient in part] for part in parts]
            between: dict[int, tf.Tensor] = {}
            for position, k in enumerate(split):
                each = tf.stack([wide(gradients[position]) for gradients in parts])
                mean = tf.reduce_mean(each, axis=0)
                penalty = _penalty(weights[k].variable, float(self.config.splits) if _sums_rows(self.model) else None)
                between[k] = sum_sq(each - mean)
                data[k] = mean if penalty is None else mean - penalty
            sums += scalars(between)

        self.entries = [Entry(w.layer, not w.sources, ghost=id(w.variable) in ghosts) for w in weights]
        columns = [sums, norms_sq(data)] + ([norms_sq(applied)] if self.regularized else [])
        table = in_order([piece for k, pieces in enumerate(columns) for piece in moved(pieces, k * len(weights))])
        if scale is not None:
            unscaled = np.array([entry.split for entry in self.entries] * len(columns))
            table = tf.where(unscaled, table, table / tf.square(tf.cast(scale, tf.float64)))
        return tf.concat([n[None], table, *last], axis=0)

    def _deviations(
        self,
        weights: Sequence[Weight],
        applied: dict[int, tf.Tensor],
        by_tap: dict[int, Any],
        n: tf.Tensor,
        squares: dict[int, tf.Tensor],
    ) -> tuple[Pieces, set[int]]:
        """The sums over i of |J_i - mean|^2, or, for those in the set, of |J_i|^2. Places are the variables' ids.

        With `evidence` the sums of squares of all entries are put into `squares`.
        """
        rows = tf.shape(self._rows)[0]
        groups = [(group, weight_factors(group, by_tap, self._batch)) for group in _connected(weights)]
        known = self._batch is not None  # else nothing says that their rows are equally many
        flat = [fs for _, fs in groups if known and all(map(is_flat, fs.values())) and self._in_one(_need(fs))]
        pieces = flat_deviations({key: f for factors in flat for key, f in factors.items() if f is not None})
        others: dict[int, tf.Tensor] = {}
        for group, factors in groups:
            undivided = any(s.rule is not None and s.rule.whole_batch for weight in group for s in weight.sources)
            taken = any(factors is each for each in flat)
            sums = {} if taken else self._sums_of(group, factors, applied, by_tap, n, undivided)
            found = self._squares(group, by_tap, factors, undivided) if self.config.evidence else {}
            if self._batch is None:  # sizes are not known while tracing: whether rows are examples is seen in the step
                firsts = [tf.shape(tap)[0] for weight in group for source in weight.sources for tap in source.taps]
                aligned = tf.reduce_all(tf.equal(tf.stack(firsts), rows))
                sums = {key: tf.where(aligned, value, np.nan) for key, value in sums.items()}
                found = {key: tf.where(aligned, value, np.nan) for key, value in found.items()}
            squares |= found
            others |= {key: tf.zeros([]) for key, factor in factors.items() if factor is None} | sums
        ghosts = {key for _, factors in groups for key, f in factors.items() if f is not None and not f.centred}
        return pieces + scalars(others), ghosts

    def _sums_of(
        self,
        group: Sequence[Weight],
        factors: dict[int, Factor | None],
        applied: dict[int, tf.Tensor],
        by_tap: dict[int, Any],
        n: tf.Tensor,
        undivided: bool,
    ) -> dict[int, tf.Tensor]:
        """A group's sums, by the variable's id: of all rows, or of some and scaled up."""
        there = {key: factor for key, factor in factors.items() if factor is not None}
        means = {key: applied[key] / tf.cast(n, applied[key].dtype) for key, factor in there.items() if factor.centred}
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
            self.how[path_of(weight.variable)] = f"{weight.how}; {self._some_rows(stride)}"
        rows = tf.shape(self._rows)[0]
        share = n / tf.cast((rows + stride - 1) // stride, tf.float64)
        return {key: tf.cast(value, tf.float64) * share for key, value in sums.items()}

    def _in_one(self, need: int, stride: int = 1) -> bool:
        """Whether every `stride`-th row can be measured at once, if each takes `need` bytes."""
        return _rows_at_once(need) >= (self._batch or 1024) / stride

    def _stride(self) -> Any:
        """Every so many-th row is measured where `examples` limits them: an int, or a tensor if the batch's size is unknown."""
        most = self.config.examples
        if most is None:
            return 1
        return -(-self._batch // most) if self._batch is not None else (tf.shape(self._rows)[0] + most - 1) // most

    def _some_rows(self, stride: Any) -> str:
        if self._batch is None:
            return f"at most {self.config.examples} rows of a batch"
        return f"{-(-self._batch // stride)} of {self._batch} rows"

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


def _need(factors: Mapping[int, Factor | None]) -> int:
    """Bytes that the factors' `deviations` take for each row."""
    return sum(factor.bytes_per_example for factor in factors.values() if factor is not None)


def _rows_at_once(need: int) -> int:
    return max(CHUNK_BYTES // max(need, 1), 1)


def sometimes(step: tf.Tensor, every: int, compute: Callable[[], tf.Tensor], width: int) -> tf.Tensor:
    """`compute()`, a float64 vector of this width, at steps 0, `every`, ...; zeros at the others."""
    if every == 1:
        return compute()
    return tf.cond(tf.equal(step % every, 0), compute, lambda: tf.zeros([width], tf.float64))


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


def _sums_rows(model: Any) -> bool:
    """Whether the compiled loss is a sum over rows, not a mean."""
    losses = keras.tree.flatten(getattr(model, "loss", None))
    reductions = {loss.reduction for loss in losses if isinstance(loss, keras.losses.Loss)}
    if "sum" in reductions and (len(reductions) > 1 or any(not isinstance(loss, keras.losses.Loss) for loss in losses)):
        raise ValueError("The split estimator can't tell what part of a batch's loss a micro-batch's is: some losses are sums.")
    return "sum" in reductions


def _regularizer(variable: Any) -> Any:
    return getattr(variable, "regularizer", None)


def _penalty(variable: Any, scale: Any) -> tf.Tensor | None:
    """Gradient of the weight's regularization, as it is in the applied gradient; None without any."""
    if _regularizer(variable) is None:
        return None
    value = tf.convert_to_tensor(variable)
    with tf.GradientTape() as tape:
        tape.watch(value)
        penalty = variable.regularizer(value)
    gradient = wide(tape.gradient(penalty, value))
    return gradient if scale is None else gradient * tf.cast(scale, gradient.dtype)
