"""A fit can be cut anywhere: started again, it ends in the bits of one that never was."""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from cuts import Case, Cut, Where, assert_survives, differing
from keras import layers
from models import data, noisy, of_unknown_size

import fitcore

ROWS, BATCH = 22, 4  # six steps an epoch, the last of two rows
EPOCH = 6
CUTS: tuple[Where, ...] = (3, EPOCH, EPOCH + 1)  # within an epoch, in its last step, in the first of the next


@functools.cache
def shared() -> keras.Model:
    """One model for all cases that ask nothing else of it: what it has traced it needn't trace again."""
    return noisy()


def arrays(**more: Any) -> dict[str, Any]:
    x, y = data(ROWS)
    return {"model": shared(), "x": x, "y": y, "batch_size": BATCH, "epochs": 3} | more


def shuffled(rows: int = ROWS, batch: int = BATCH) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(data(rows)).shuffle(10).batch(batch)


class Batches(keras.utils.PyDataset):
    """Six batches of four; counts how often each is made."""

    def __init__(self, endless: bool = False, **workers: Any) -> None:
        super().__init__(**workers)
        self.x, self.y = data(24)
        self.endless = endless
        self.made: list[int] = []

    @property
    def num_batches(self) -> int | None:
        return None if self.endless else 6

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        self.made.append(i)
        i %= 6
        return self.x[4 * i : 4 * i + 4], self.y[4 * i : 4 * i + 4]


class Augmented(Batches):
    """What its batches are depends on how many epochs have begun and ended; it says so."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = self.ended = 0

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        x, y = super().__getitem__(i)
        return x * np.float32(1 + 0.1 * self.begun + 0.01 * self.ended), y

    def on_epoch_begin(self) -> None:
        self.begun += 1

    def on_epoch_end(self) -> None:
        self.ended += 1

    def state(self) -> dict[str, int]:
        return {"begun": self.begun, "ended": self.ended}

    def load_state(self, state: dict[str, int]) -> None:
        self.begun, self.ended = state["begun"], state["ended"]


# --- data -----------------------------------------------------------------------------------------------------------------


DATA: dict[str, Callable[[], dict[str, Any]]] = {
    "arrays": lambda: arrays(validation_split=0.1),
    "shuffle_batch": lambda: arrays(shuffle="batch"),
    "reshuffle": lambda: arrays(shuffle=fitcore.Reshuffle(3)),
    "steps_over_passes": lambda: arrays(steps_per_epoch=4),
    "steps_end_in_a_pass": lambda: arrays(steps_per_epoch=EPOCH, epochs=2),
    "class_weight": lambda: arrays(y=(data(ROWS)[1] > 0).astype("int32"), class_weight={0: 0.3, 1: 2.0}, initial_epoch=1),
    "sample_weight": lambda: arrays(sample_weight=np.linspace(0, 1, ROWS).astype("float32"), validation_freq=2),
    "dataset": lambda: arrays(x=shuffled(), y=None, batch_size=None, validation_data=shuffled()),
    "chained_shuffles": lambda: arrays(x=shuffled().shuffle(3), y=None, batch_size=None),
    "endless": lambda: arrays(
        x=tf.data.Dataset.from_tensor_slices(data(ROWS)).shuffle(10).repeat().batch(BATCH), y=None, batch_size=None, steps_per_epoch=5
    ),
    "endless_chained": lambda: arrays(
        x=shuffled().shuffle(3).repeat().shuffle(4), y=None, batch_size=None, steps_per_epoch=5
    ),
    "unknown_size": lambda: arrays(x=of_unknown_size(shuffled()), y=None, batch_size=None, validation_data=of_unknown_size(shuffled())),
    "random_map": lambda: arrays(
        x=tf.data.Dataset.from_tensor_slices(data(ROWS)).map(lambda x, y: (x + tf.random.uniform([]), y)).shuffle(5).batch(BATCH),
        y=None, batch_size=None,
    ),
    "dataset_steps": lambda: arrays(x=shuffled(batch=2), y=None, batch_size=None, steps_per_epoch=5),
    "dataset_ends_early": lambda: arrays(x=shuffled(), y=None, batch_size=None, steps_per_epoch=8, epochs=2),
    "py_dataset": lambda: arrays(x=Batches(), y=None, batch_size=None, validation_data=Batches()),
    "py_dataset_workers": lambda: arrays(x=Batches(workers=2), y=None, batch_size=None),
    "py_dataset_steps": lambda: arrays(x=Batches(), y=None, batch_size=None, steps_per_epoch=4),
    "py_dataset_endless": lambda: arrays(x=Batches(endless=True), y=None, batch_size=None, steps_per_epoch=5),
    "py_dataset_in_order": lambda: arrays(x=Batches(), y=None, batch_size=None, shuffle=False),
    "py_dataset_with_state": lambda: arrays(x=Augmented(), y=None, batch_size=None, validation_data=Augmented()),
}  # fmt: skip


@pytest.mark.parametrize("every", ["2 steps", "1 epoch"])
@pytest.mark.parametrize("name", DATA)
def test_any_data(name: str, every: str, tmp_path: Path) -> None:
    cuts = CUTS if every == "2 steps" else (EPOCH + 2, ("on_epoch_begin", 3 if name not in ("steps_end_in_a_pass", "dataset_ends_early", "class_weight") else 2))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*(ran out of data|saved as a number)")
        assert_survives(Case(lambda folder: DATA[name](), tmp_path), *cuts, again=name in ("arrays", "dataset"), every=every)
