"""Sources of data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf


class Batches(keras.utils.PyDataset):
    """A PyDataset of these arrays."""

    def __init__(self, parts: tuple[Any, ...], size: int, rows: int) -> None:
        super().__init__()
        self.parts, self.size, self.rows = parts, size, rows

    def __len__(self) -> int:
        return -(-self.rows // self.size)

    def __getitem__(self, i: int) -> Any:
        return keras.tree.map_structure(lambda each: each[i * self.size : (i + 1) * self.size], self.parts)


def generate(parts: tuple[Any, ...], size: int, rows: int) -> Iterator[Any]:
    """Batches without an end."""
    while True:
        for i in range(0, rows, size):
            yield keras.tree.map_structure(lambda each, i=i: each[i : i + size], parts)


def as_dataset(parts: tuple[Any, ...], size: int, shuffled: int, unknown: bool) -> tf.data.Dataset:
    """A tf.data.Dataset; of unknown length if that is asked for."""
    made = tf.data.Dataset.from_tensor_slices(parts)
    if shuffled:
        made = made.shuffle(shuffled)
    if unknown:
        made = made.filter(lambda *row: True)
    return made.batch(size)
