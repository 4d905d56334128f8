"""Recorders that look at a step as it runs, inside the compiled loop, and leave what they saw in variables for a hook to read.

Nothing of it goes into the curves, which hold a value for each step. In a step that isn't looked at they cost a comparison.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from fitcore.step import Observation, scaled
from fitcore.tracing import scratch

BUCKETS = 30
KINDS = ("weights", "gradients", "updates")

_NOTHING = np.zeros(0)


class Distribution(NamedTuple):
    """How the elements of a tensor are distributed.

    Attributes:
      counts: [BUCKETS] of elements in each of as many equal intervals between the two.
      low, high: the least and the greatest; not finite if an element isn't.
      norm: Euclidean.
    """

    counts: np.ndarray
    low: float
    high: float
    norm: float


class Distributions:
    """Of the weights, gradients and updates of each `every`-th optimizer step.

    The gradients are those that the optimizer gets, loss scale undone; an update is what the step has made of the weights, less
    what they were. It keeps a copy of the weights for that.
    """

    on_one_replica = True

    def __init__(self, every: int) -> None:
        self._every = every
        self._paths: list[str] = []
        self._weights: list[tf.Variable] = []  # as they were before the last step that was looked at
        self._found: Any = None  # [kinds and one more, variables, BUCKETS + 3]; the last kind: weights before the update

    def __call__(self, seen: Observation) -> Callable[[], tf.Tensor]:
        """Look before the update; what is returned looks after it."""
        self._paths = unique(getattr(variable, "path", variable.name) for variable in seen.variables)
        if self._found is None:
            with tf.init_scope():  # out of the graph that is being traced
                self._weights = [_kept(variable.shape, variable.dtype) for variable in seen.variables]
                self._found = _kept((len(KINDS) + 1, len(self._weights), BUCKETS + 3), tf.float64)
        elif [kept.shape for kept in self._weights] != [variable.shape for variable in seen.variables]:
            raise ValueError("`histograms` of fitcore.TensorBoard: one hook looks at one model; give each model its own.")
        chosen = tf.equal((seen.step + 1) % self._every, 0)

        def before() -> None:
            for kept, variable in zip(self._weights, seen.variables):
                kept.assign(tf.convert_to_tensor(variable))

        def after() -> None:
            now = [tf.cast(tf.convert_to_tensor(variable), tf.float64) for variable in seen.variables]
            then = [tf.cast(kept, tf.float64) for kept in self._weights]
            scale = tf.cast(scaled(seen.optimizer, tf.ones((), tf.float32)), tf.float64)
            gradients = [None if g is None else tf.cast(tf.convert_to_tensor(g), tf.float64) / scale for g in seen.gradients]
            updates = [new - old for new, old in zip(now, then)]
            self._found.assign(tf.stack([tf.stack([_described(t) for t in kind]) for kind in (now, gradients, updates, then)]))

        def look_after() -> tf.Tensor:
            _only_if(chosen, after)
            return tf.constant(_NOTHING)

        _only_if(chosen, before)
        return look_after

    def last_due(self, done: int) -> int:
        """After how many optimizer steps the last look was, once `done` have been made; 0 before the first."""
        return done // self._every * self._every

    def last(self) -> tuple[dict[str, Distribution], dict[str, float]]:
        """Of the last step looked at: what was found by "KIND/VARIABLE", and the ratio of update to weight by variable.

        A gradient that there is none of is left out.
        """
        found = self._found.numpy()
        described = {
            f"{kind}/{path}": Distribution(row[:BUCKETS], *row[BUCKETS:].tolist())
            for kind, rows in zip(KINDS, found)
            for path, row in zip(self._paths, rows)
            if row[:BUCKETS].any()
        }
        updates, weights = found[KINDS.index("updates"), :, -1], found[len(KINDS), :, -1]
        ratios = np.divide(updates, weights, where=weights > 0, out=np.full_like(updates, np.nan))
        return described, dict(zip(self._paths, ratios.tolist()))


class Images:
    """The first images of the batch of one step.

    Args:
      most: how many.
    """

    on_one_replica = True

    def __init__(self, most: int) -> None:
        self._most = most
        self._step = scratch(tf.Variable(-1, dtype=tf.int64, trainable=False))
        self._seen: Any = None

    def ask(self, step: int) -> None:
        """Let them be of the step with this index."""
        self._step.assign(step)

    def __call__(self, seen: Observation) -> tf.Tensor:
        images = keras.tree.flatten(seen.x)[0]
        if images.shape.rank != 4 or images.shape[-1] not in (1, 3, 4):
            raise ValueError(
                "`images` of fitcore.TensorBoard shows inputs of shape [rows, height, width, 1, 3 or 4 channels]. Received: "
                f"inputs of shape {images.shape}"
            )
        if self._seen is None or not images.shape[1:].is_compatible_with(self._seen.shape[1:]):
            with tf.init_scope():
                none = tf.zeros([0, *images.shape[1:]], images.dtype)
                self._seen = scratch(tf.Variable(none, shape=[None, *images.shape[1:]]))

        def look() -> None:
            self._seen.assign(images[: self._most])

        _only_if(tf.equal(seen.step, self._step), look)
        return tf.constant(_NOTHING)

    def last(self) -> np.ndarray:
        """[images, height, width, channels], uint8: others are spread over it, from 0 or less to 1 or more."""
        images = self._seen.numpy()
        if images.dtype == np.uint8:
            return images
        low, high = images.min(initial=0), images.max(initial=1)
        return np.round(255.0 * (images - low) / (high - low)).astype(np.uint8)


def unique(names: Iterable[str]) -> list[str]:
    """The names, but for those that were there before: these get their number behind them."""
    found: list[str] = []
    count: Counter[str] = Counter()
    for name in names:
        count[name] += 1
        found.append(name if count[name] == 1 else f"{name}_{count[name]}")
    return found


def _only_if(wanted: tf.Tensor, action: Callable[[], None]) -> None:
    """Let the action happen in those steps where it is wanted, and be one op in all others.

    Inlined, as TensorFlow does by itself, each of its ops would be visited in each step to find that it isn't wanted: 14 % of a
    small model's step.
    """
    function = tf.function(action, autograph=False, experimental_attributes={"_noinline": True})

    def act() -> tf.Tensor:
        function()
        return tf.constant(True)

    tf.cond(wanted, act, lambda: tf.constant(False))


def _kept(shape: Any, dtype: Any) -> tf.Variable:
    return scratch(tf.Variable(tf.zeros(shape, dtype), trainable=False))


def _described(tensor: tf.Tensor | None) -> tf.Tensor:
    """The numbers of a `Distribution`, [BUCKETS + 3]; all 0 for none."""
    if tensor is None:
        return tf.zeros([BUCKETS + 3], tf.float64)
    values = tf.reshape(tensor, [-1])
    low, high = tf.reduce_min(values), tf.reduce_max(values)
    width = tf.where(high > low, (high - low) / BUCKETS, tf.ones_like(low))
    buckets = tf.clip_by_value(tf.cast((values - low) / width, tf.int32), 0, BUCKETS - 1)  # also where values aren't finite
    counts = tf.math.unsorted_segment_sum(tf.ones_like(values), buckets, BUCKETS)
    return tf.concat([counts, tf.stack([low, high, tf.norm(values)])], axis=0)
