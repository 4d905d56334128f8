"""The order in which a pass over an array's rows is made."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Protocol

import keras
import numpy as np
import tensorflow as tf

from fitcore import keras_private


class Order(Protocol):
    """An order of rows for each pass over the data."""

    def rows(self, pass_index: int, n: int, batch_size: int) -> tf.Tensor:
        """The rows of pass `pass_index` (0, 1, ...) in the order they are visited, int64, shape [n]."""

    @property
    def repeatable(self) -> bool:
        """Whether another process that asks for the same rows gets the same."""

    def describe(self) -> str:
        """One line for `explain`."""


@dataclass(frozen=True)
class KerasOrder:
    """The order of `keras.Model.fit(shuffle=...)`, bit for bit, drawn by the installed Keras.

    Under a global seed (`keras.utils.set_random_seed`, `tf.random.set_seed`) Keras starts its random op afresh for each
    pass, so **every epoch and every call to fit sees the same permutation**. Without a seed each pass differs, and no two
    runs agree. `Reshuffle` has neither property.

    Args:
      shuffle: as in fit: True, False, or "batch" (rows are permuted inside each batch).
    """

    shuffle: bool | str

    def rows(self, pass_index: int, n: int, batch_size: int) -> tf.Tensor:
        if not self.shuffle:
            return tf.range(n, dtype=tf.int64)
        seed = keras_private.global_seed()
        if seed is not None:
            # A new iterator of the same seeded dataset repeats itself, so one draw serves all passes (and all fits).
            return _seeded_rows(n, batch_size if self.shuffle == "batch" else n, self.shuffle, seed)
        if self.shuffle == "batch":
            return _draw(n, batch_size, "batch")
        return tf.random.shuffle(tf.range(n, dtype=tf.int64))  # unseeded: any permutation is Keras's

    @property
    def repeatable(self) -> bool:
        return not self.shuffle or keras_private.global_seed() is not None

    def describe(self) -> str:
        if not self.shuffle:
            return "in order (shuffle=False)"
        what = "inside each batch" if self.shuffle == "batch" else "all rows"
        if keras_private.global_seed() is None:
            return f"Keras {keras.__version__}'s shuffle of {what}, unseeded: differs in each epoch, can't be repeated"
        return f"Keras {keras.__version__}'s shuffle of {what}; a global seed is set: the same permutation in every epoch"


@functools.lru_cache(maxsize=8)
def _seeded_rows(n: int, batch_size: int, shuffle: bool | str, seed: int) -> tf.Tensor:
    return _draw(n, batch_size, shuffle)


def _draw(n: int, batch_size: int, shuffle: bool | str) -> tf.Tensor:
    return tf.concat(list(keras_private.index_dataset(n, batch_size, shuffle)), axis=0)


@dataclass(frozen=True)
class Reshuffle:
    """A new permutation in each epoch, a pure function of (seed, epoch): `fit(..., shuffle=fitcore.Reshuffle(seed=0))`.

    Any epoch's order can be computed again, in any process, without running the epochs before it. The global seed plays
    no part. (With `steps_per_epoch` below a whole pass, "epoch" means the pass over the data.)

    Args:
      seed: any int64.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.seed, bool) or not isinstance(self.seed, (int, np.integer)):
            raise TypeError(f"`seed` must be an int. Received: seed={self.seed!r} of type {type(self.seed).__name__}")

    def rows(self, pass_index: int, n: int, batch_size: int = 0) -> tf.Tensor:
        seed = tf.constant([self.seed, pass_index], tf.int64)
        return tf.random.experimental.stateless_shuffle(tf.range(n, dtype=tf.int64), seed=seed)

    @property
    def repeatable(self) -> bool:
        return True

    def describe(self) -> str:
        return f"reshuffled each epoch from (seed={self.seed}, epoch)"
