"""Measuring inside the step: from what the forward and backward pass left behind to one row of numbers.

probe.watching(...)     around the forward pass, which it only notes
probe.taps(...)         tensors whose gradients are wanted along with the weights'
probe.measure(...)      the row: [n, then the sums and the squared norms of each entry of `entries`], as
                        `statistics.deviations` takes them; with `evidence` that criterion; with `hessian_every` the three
                        columns of the full noise scale. Over several replicas the row is `over_replicas.Part.joined`'s
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fitcore import keras_private
from fitcore.noise.config import GradientNoise
from fitcore.noise.evidence import criterion
from fitcore.noise.examples import Examples
from fitcore.noise.factors import sum_sq, wide
from fitcore.noise.losses import penalty_of, regularizer, sums_rows
from fitcore.noise.over_replicas import HEAD, Part
from fitcore.noise.plan import REPLICAS, SPLIT, Weight, in_words, path_of, plan, split_instead
from fitcore.noise.split import LostError, Passes, curvature
from fitcore.noise.statistics import deviations, groups
from fitcore.noise.together import Pieces, in_order, moved, norms_sq, scalars
from fitcore.noise.watch import Watch

NOISE_TOTALS = (
    "noise/trace",
    "noise/grad_norm_sq",
    "noise/batch_size",
    "noise/evidence",
)  # what rules inside the loop can read

Bools = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class Entry:
    """One weight's columns of the recorded row.

    Attributes:
      layer: path of the layer it belongs to.
      split: whether measured by splitting the batch, or across replicas.
      ghost: whether its sums are not centred, so that its deviations are a difference of sums of squares.
    """

    layer: str
    split: bool
    ghost: bool


class Traced(threading.local):
    """What is being traced: one step, or one replica's part of it. TensorFlow traces each replica in a thread of its own and
    goes from one to the next wherever something is summed over them."""

    def __init__(self) -> None:
        self.watch: Any = None
        self.weights: list[Weight] = []
        self.batch: int | None = None  # rows, if known
        self.rows: Any = None  # a tensor that has the batch's rows


class Probe:
    """Measures one model's gradient noise. Its attributes are filled while the step is traced.

    Args:
      model: what is trained.
      config: how it is measured.
      replicas: how many the step is run on.
      jit_compile: whether XLA compiles the step, as `compile(jit_compile=True)` asks for.

    Attributes:
      entries: what the row's columns are about.
      how: how each weight was measured, by the weight's path.
      regularized: whether a third column per entry has |G_B|^2 with the regularization in it.

    Raises:
      ValueError: what `config` asks for can't be had on so many replicas.
    """

    def __init__(self, model: Any, config: GradientNoise, replicas: int = 1, jit_compile: bool = False) -> None:
        config.check(replicas)
        self.model = model
        self.config = config
        self.replicas = replicas
        self._jit_compile = jit_compile
        self.entries: list[Entry] = []
        self.how: dict[str, str] = {}
        self.regularized = False
        self._traced = Traced()

    @property
    def weights(self) -> list[Weight]:
        """How each is measured, in the order of the variables."""
        return self._traced.weights

    def watching(self) -> AbstractContextManager[None]:
        """Note the forward pass made inside. Adds no op to it."""
        if tf.executing_eagerly():
            raise ValueError("Gradient noise is measured inside the compiled step; `run_eagerly` must be off.")
        self._traced.watch = Watch(self.model)
        return self._traced.watch.forward()

    def taps(self, x: Any, variables: Sequence[Any], loss: tf.Tensor) -> list[Any]:
        """Plan the measurement, once the loss has been computed; returns the tensors whose gradients it needs."""
        here = self._traced
        here.rows = next(leaf for leaf in keras.tree.flatten(x) if leaf is not None)
        here.batch = here.rows.shape[0]
        otherwise = SPLIT if self.replicas == 1 else REPLICAS
        here.weights = plan(here.watch, variables, self.config.estimator, loss, here.batch, otherwise)
        self.how = {path_of(w.variable): w.how for w in self.weights}
        return list({id(tap): tap for weight in self.weights for source in weight.sources for tap in source.taps}.values())

    def measure(
        self, seen: Any, taps: Sequence[Any], deltas: Sequence[Any], scaled: bool, parts: Any, own: Sequence[Any]
    ) -> tf.Tensor:
        """The row of this step, float64; zeros where `every` leaves the step out. To be called before the update.

        Args:
          seen: the step's `fitcore.Observation`, whose gradients are those of all replicas together.
          taps: what `taps` returned; `deltas`: the gradients there.
          scaled: whether the optimizer's loss scale is in all gradients.
          parts: the step's `Parts`, of which the split estimator makes passes of its own.
          own: the gradients of this replica alone; else the same.
        """
        gradients = list(seen.gradients)  # a sum over replicas can't be made in a branch
        batch = (seen.x, seen.y, seen.sample_weight)
        by_tap = {id(tap): delta for tap, delta in zip(taps, deltas)}
        scale = seen.optimizer.scale_loss(tf.ones([], tf.float32)) if scaled else None

        def loss_of(part: Any) -> tf.Tensor:
            x, y, sample_weight = part
            return parts.loss(x, y, parts.forward(x, True), sample_weight, True)

        rows = tf.cast(tf.shape(self._traced.rows)[0], tf.float64)
        part = Part.of(rows, self.replicas, sums_rows(self.model)) if self.replicas > 1 else None

        def row() -> tf.Tensor:
            return self._row(batch, gradients, own, by_tap, scale, loss_of, part)

        def curved() -> tf.Tensor:
            used = [v for v, gradient in zip(seen.variables, gradients) if gradient is not None]
            others = [v for v in seen.variables if regularizer(v) is not None and all(v is not u for u in used)]
            with Passes(loss_of, batch, 3, used, others) as passes:
                return tf.stack([tf.ones([], tf.float64), *curvature(passes)])

        found = sometimes(seen.step, self.config.every, row, self._width(gradients, by_tap), self._jit_compile)
        if part is not None:
            count = len(self.entries)
            summands, *norms_sq = tf.split(found, [HEAD + count, *[count] * (1 + self.regularized)])
            return part.joined(summands, norms_sq, *self.kinds)
        if not self.config.hessian_every:
            return found
        return tf.concat([found, sometimes(seen.step, self.config.hessian_every, curved, 3, self._jit_compile)], axis=0)

    def totals(self, row: tf.Tensor) -> dict[str, tf.Tensor]:
        """What rules in the loop see of one step, by name, from its row, traced: float64 scalars, NaN if not measured."""
        n, (split, ghost), count = row[0], self.kinds, len(self.entries)
        first, big = tf.split(row[self.head : self.head + 2 * count], 2)
        if self.replicas > 1:
            d, units, size = first, *groups(row[1], row[2], split, tf.where)
        else:
            d, units = deviations(first, big, n, split, ghost), tf.where(split, tf.cast(self.config.splits, n.dtype), n)
            size = tf.where(split, n // self.config.splits, 1.0)
        between = tf.where(tf.logical_and(units >= 2, size >= 1), units - 1, np.nan)
        trace = tf.reduce_sum(size * d / between)  # as `statistics.estimate`
        norm_sq = tf.reduce_sum(big - d / (units * between))
        values = [trace, norm_sq, n]
        if self.config.evidence:
            values.append(row[-4 if self.config.hessian_every else -1])
        return {name: tf.where(n > 0, value, np.nan) for name, value in zip(NOISE_TOTALS, values)}

    @property
    def head(self) -> int:
        """How many values stand in a row before those of the entries."""
        return 1 if self.replicas == 1 else HEAD

    @property
    def kinds(self) -> tuple[Bools, Bools]:
        """`split` and `ghost` of all entries."""
        return np.array([e.split for e in self.entries], bool), np.array([e.ghost for e in self.entries], bool)

    # --- one row ----------------------------------------------------------------------------------------------------------

    def _width(self, gradients: Sequence[Any], by_tap: dict[int, Any]) -> int:
        """Length of a row: that of one made in a graph that is thrown away."""
        self._live(gradients, by_tap)
        return self.head + len(self.entries) * (3 if self.regularized else 2) + int(self.config.evidence)

    def _live(self, gradients: Sequence[Any], by_tap: dict[int, Any]) -> list[tuple[Weight, Any]]:
        """The weights that have a gradient, with it; sets `entries` and `regularized`.

        Those whose gradient came by way of nothing that was noted are split.
        """
        for i, (weight, gradient) in enumerate(zip(self.weights, gradients)):
            reached = any(by_tap.get(id(tap)) is not None for source in weight.sources for tap in source.taps)
            if gradient is not None and weight.sources and not reached:
                if self.config.estimator == "per_example":
                    raise ValueError(f"`estimator='per_example'`: the gradient of {weight.layer} bypasses its layer's outputs.")
                how = f"{SPLIT if self.replicas == 1 else REPLICAS}: its gradient doesn't pass through its layer's outputs"
                self.weights[i] = Weight(weight.variable, weight.layer, (), how)
                self.how[path_of(weight.variable)] = how
        live = [(weight, gradient) for weight, gradient in zip(self.weights, gradients) if gradient is not None]
        self.entries = [Entry(weight.layer, not weight.sources, ghost=False) for weight, _ in live]
        self.regularized = any(regularizer(w.variable) is not None for w in self.weights)
        return live

    def _row(
        self,
        batch: Any,
        gradients: Any,
        own: Any,
        by_tap: Any,
        scale: Any,
        loss_of: Any,
        part: Part | None,
    ) -> tf.Tensor:
        live = self._live(gradients, by_tap)
        n = tf.cast(tf.shape(self._traced.rows)[0], tf.float64)
        head = n[None] if part is None else part.head()
        last = [tf.constant([np.nan], tf.float64)] if self.config.evidence else []
        if not live:
            return tf.concat([head, *last], axis=0)
        weights = [weight for weight, _ in live]
        penalties = [penalty_of(weight.variable, scale) for weight in weights]
        applied = [wide(tf.convert_to_tensor(gradient)) for _, gradient in live]
        data = [g if p is None else g - p for g, p in zip(applied, penalties)]

        exact = {id(weight.variable): k for k, weight in enumerate(weights) if weight.sources}
        squares: dict[int, tf.Tensor] = {}
        factor = n if part is None else part.factor
        means = {key: data[k] / tf.cast(factor, data[k].dtype) for key, k in exact.items()}
        here = self._traced
        examples = Examples(self.config, self.replicas, here.rows, here.batch, self.how)
        by_rows, ghosts, failed = examples.deviations([weights[k] for k in exact.values()], means, by_tap, squares)
        sums: Pieces = [([exact[key] for key in keys], vector) for keys, vector in by_rows]
        for key, reason in failed.items():
            k = exact.pop(key)
            weights[k] = self._instead(weights[k], reason)
        if self.config.evidence and exact:
            entries = [(squares[key], data[k], applied[k]) for key, k in exact.items() if key in squares]
            last = [criterion(entries, n)[None]]
        split = [k for k, weight in enumerate(weights) if not weight.sources]
        if split and part is not None:
            alone = [gradient for gradient, whole in zip(own, gradients) if whole is not None]
            between = {}
            for k in split:
                mine, share, penalty = wide(tf.convert_to_tensor(alone[k])), tf.cast(part.share, data[k].dtype), penalties[k]
                mine = mine if penalty is None else mine - penalty / part.replicas
                between[k] = tf.math.divide_no_nan(sum_sq(mine - share * data[k]), share)
            sums += scalars(between)
        elif split:
            sums += scalars(self._between(split, weights, data, batch, loss_of))

        self.entries = [Entry(w.layer, not w.sources, ghost=id(w.variable) in ghosts) for w in weights]
        columns = [sums, norms_sq(data)] + ([norms_sq(applied)] if self.regularized else [])
        table = in_order([piece for k, pieces in enumerate(columns) for piece in moved(pieces, k * len(weights))])
        if scale is not None:
            unscaled = np.array([entry.split and part is None for entry in self.entries] * len(columns))
            table = tf.where(unscaled, table, table / tf.square(tf.cast(scale, tf.float64)))
        if part is not None:
            contributions = np.array([not entry.split for entry in self.entries] + [False] * len(weights) * (len(columns) - 1))
            table = tf.where(contributions, table * part.factor, table)
        return tf.concat([head, table, *last], axis=0)

    def _instead(self, weight: Weight, reason: str) -> Weight:
        """How a weight is measured that can't be measured per example, as turned out while it was tried."""
        otherwise = SPLIT if self.replicas == 1 else REPLICAS
        found = split_instead(weight.variable, weight.layer, self.config.estimator, otherwise, reason)
        self.how[path_of(weight.variable)] = found.how
        return found

    def _between(
        self, split: Sequence[int], weights: Sequence[Weight], data: list[tf.Tensor], batch: Any, loss_of: Any
    ) -> dict[int, tf.Tensor]:
        """Sums over micro-batches of |G_j - mean|^2, of the weights at these places; their mean comes in the place of `data`.

        NaN where the model can't be run on a part of a batch.
        """
        k, is_sum = self.config.splits, sums_rows(self.model)
        others = [w.variable for w in self.weights if regularizer(w.variable) is not None and w.sources]
        try:
            with Passes(loss_of, batch, k, [weights[p].variable for p in split], others) as passes:
                found = [passes.gradients(j) for j in range(k)]
        except (LostError, keras_private.NotDrawableError):  # the second: this trace is given up, for one without XLA
            raise
        except Exception as error:
            if self.config.estimator == SPLIT:
                raise ValueError(
                    f"`estimator='split'`: the model can't be run on a part of a batch alone: {in_words(error)}. "
                    "Use estimator='auto', which splits batches only for weights that it can't measure otherwise."
                ) from error
            for p in split:
                path = path_of(weights[p].variable)
                self.how[path] = f"not measured ({weights[p].how}; and a part of a batch alone ends in {in_words(error)})"
            return {p: tf.constant(np.nan, tf.float64) for p in split}
        if is_sum:  # a micro-batch's loss is then a part of the batch's, not an estimate of all of it
            found = [[k * gradient for gradient in each] for each in found]
        between = {}
        for position, p in enumerate(split):
            each = tf.stack([wide(one[position]) for one in found])
            mean = tf.reduce_mean(each, axis=0)
            penalty = penalty_of(weights[p].variable, float(k) if is_sum else None)
            between[p] = sum_sq(each - mean)
            data[p] = tf.where(passes.enough, mean if penalty is None else mean - penalty, data[p])
        return between


def sometimes(
    step: tf.Tensor, every: int, compute: Callable[[], tf.Tensor], width: int, jit_compile: bool = False
) -> tf.Tensor:
    """`compute()`, a float64 vector of this width, at steps 0, `every`, ...; zeros at the others.

    In a step that XLA compiles it is computed at each step: what is handed to a branch XLA lays out and fuses otherwise, and
    the training has other last bits then.
    """
    if every == 1:
        return compute()
    now, nothing = tf.equal(step % every, 0), tf.zeros([width], tf.float64)
    return tf.where(now, compute(), nothing) if jit_compile else tf.cond(now, compute, lambda: nothing)
