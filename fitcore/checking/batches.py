"""The data that a check trains on: the first batches of fit's, the same for each training; the data stay untouched."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from fitcore import keras_private
from fitcore.errors import NoDataError


@dataclass(frozen=True)
class Batches:
    """The data arguments of a training.

    Attributes:
      arguments: () -> fit's arguments by name: data, batch size, epochs.
      steps: how many steps that makes.
    """

    arguments: Callable[[], dict[str, Any]]
    steps: int


def first_batches(given: Mapping[str, Any], steps: int) -> Batches:
    """What makes `steps` steps, of whole passes if a pass has fewer: then a few steps more.

    Arrays are trained on as they are, with their shuffle, or their first rows are; a last batch stays as small as it is. Of
    anything else the first batches are read, once: of a copy, where a dataset can be copied, since reading changes what a
    shuffled one gives next.

    Args:
      given: fit's arguments.
      steps: how many.
    """
    names = ("x", "y", "sample_weight", "batch_size", "shuffle", "class_weight")
    data = {name: given[name] for name in names}
    if given["validation_split"] and given["validation_data"] is None and not inspect.isgenerator(given["x"]):
        arrays = tuple(data[name] for name in names[:3])
        kept, _ = keras_private.train_validation_split(arrays, given["validation_split"])
        data |= zip(names, kept)
    if data["x"] is None:
        raise NoDataError("`x` must be arrays, a dataset or a generator of batches. Received: x=None")
    if keras_private.are_arrays(data["x"]):
        return _of_arrays(data, steps)
    return _taken(data, given["steps_per_epoch"], steps)


def _of_arrays(data: dict[str, Any], steps: int) -> Batches:
    each = data["batch_size"] or 32
    rows = int(next(leaf for leaf in keras.tree.flatten(data["x"]) if leaf is not None).shape[0])
    in_pass = -(-rows // each)
    if in_pass > steps:
        first = (steps - 1) * each + (rows % each or each)
        data = data | {
            name: keras.tree.map_structure(lambda leaf: _first_rows(leaf, first), data[name])
            for name in ("x", "y", "sample_weight")
            if data[name] is not None
        }
        in_pass = steps
    epochs = -(-steps // max(in_pass, 1))
    return Batches(lambda: data | {"epochs": epochs}, epochs * in_pass)


def _first_rows(leaf: Any, rows: int) -> Any:
    if isinstance(leaf, tf.SparseTensor):
        return tf.sparse.slice(leaf, [0] * len(leaf.shape), [rows, *leaf.shape[1:]])
    return leaf if leaf is None else leaf[:rows]


def _taken(data: Mapping[str, Any], steps_per_epoch: int | None, steps: int) -> Batches:
    most = min(steps, steps_per_epoch or steps)
    read = {**data, "x": _copied(data["x"], most)}
    adapter = keras_private.get_data_adapter(**read, steps_per_epoch=steps_per_epoch)
    dataset = adapter.get_tf_dataset()
    batches = list(itertools.islice(dataset, most))
    if not batches:
        raise ValueError(f"`x` holds no data: 0 batches. Received: x of type {type(data['x']).__name__}")
    again = tf.data.Dataset.from_generator(lambda: iter(batches), output_signature=dataset.element_spec)
    if adapter.num_batches is not None:
        again = again.apply(tf.data.experimental.assert_cardinality(len(batches)))
    epochs = -(-steps // len(batches))
    return Batches(lambda: {"x": again, "epochs": epochs}, epochs * len(batches))


def out_of_generator(x: Any, most: int) -> Any:
    """A generator of its first batches, no more of which are taken out of it than these; anything else as it is."""
    if not inspect.isgenerator(x):
        return x
    first = list(itertools.islice(x, most))
    return (batch for batch in first)


def _copied(x: Any, most: int) -> Any:
    """What can be read instead of `x`, up to so many batches, so that `x` gives the same as ever; `x`, if there is nothing."""
    if isinstance(x, keras.utils.PyDataset):  # without its workers, and without telling it that an epoch ends
        return _Listed([x[i] for i in range(min(most, most if x.num_batches is None else x.num_batches))])
    copy = keras_private.copied_dataset(x) if isinstance(x, tf.data.Dataset) else None
    return x if copy is None else copy


class _Listed(keras.utils.PyDataset):
    def __init__(self, batches: list[Any]) -> None:
        super().__init__()
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> Any:
        return self._batches[index]
