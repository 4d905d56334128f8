"""A fit on any data can be cut anywhere: started again, it ends in the bits of one that never was."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from cut_fits import BATCH, CUTS, EPOCH, ROWS, arrays, shuffled
from cuts import Case, Cut, assert_survives, differing
from keras import layers
from models import data, of_unknown_size
from tensorflow.python.eager import context

import fitcore


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
        x=tf.data.Dataset.from_tensor_slices(data(ROWS)).shuffle(10).repeat().batch(BATCH),
        y=None,
        batch_size=None,
        steps_per_epoch=5,
    ),
    "endless_chained": lambda: arrays(x=shuffled().shuffle(3).repeat().shuffle(4), y=None, batch_size=None, steps_per_epoch=5),
    "unknown_size": lambda: arrays(
        x=of_unknown_size(shuffled()), y=None, batch_size=None, validation_data=of_unknown_size(shuffled())
    ),
    "random_map": lambda: arrays(
        x=tf.data.Dataset.from_tensor_slices(data(ROWS))
        .map(lambda x, y: (x + tf.random.uniform([]), y))
        .shuffle(5)
        .batch(BATCH),
        y=None,
        batch_size=None,
    ),
    "dataset_steps": lambda: arrays(x=shuffled(batch=2), y=None, batch_size=None, steps_per_epoch=5),
    "dataset_ends_early": lambda: arrays(x=shuffled(), y=None, batch_size=None, steps_per_epoch=8, epochs=2),
    "py_dataset": lambda: arrays(x=Batches(), y=None, batch_size=None, validation_data=Batches()),
    "py_dataset_workers": lambda: arrays(x=Batches(workers=2), y=None, batch_size=None),
    "py_dataset_steps": lambda: arrays(x=Batches(), y=None, batch_size=None, steps_per_epoch=4),
    "py_dataset_endless": lambda: arrays(x=Batches(endless=True), y=None, batch_size=None, steps_per_epoch=5),
    "py_dataset_in_order": lambda: arrays(x=Batches(), y=None, batch_size=None, shuffle=False),
    "py_dataset_with_state": lambda: arrays(x=Augmented(), y=None, batch_size=None, validation_data=Augmented()),
}


@pytest.mark.parametrize("every", ["2 steps", "1 epoch"])
@pytest.mark.parametrize("name", DATA)
def test_any_data(name: str, every: str, tmp_path: Path) -> None:
    cuts = [*CUTS] if every == "2 steps" else [EPOCH + 2, ("on_train_end", 1)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*(ran out of data|saved as a number)")
        assert_survives(Case(lambda folder: DATA[name](), tmp_path), cuts, again=name in ("arrays", "dataset"), every=every)


def test_no_batch_is_made_twice(tmp_path: Path) -> None:
    """But those that Keras reads for their shapes, and those made ahead and never used."""
    made: list[list[int]] = []

    def make(folder: Path) -> dict[str, Any]:
        batches = Batches()
        made.append(batches.made)
        return arrays(x=batches, y=None, batch_size=None, shuffle=False, epochs=1)

    case = Case(make, tmp_path)
    with pytest.raises(Cut):
        case.fit("cut", 5, {"every": "4 steps"})
    case.fit("cut", None, {"every": "4 steps"})
    first_read = made[0][:-EPOCH] if made[0][-EPOCH:] == [*range(6)] else made[0][: made[0].index(0, 1)]
    assert made[-1][len(first_read) :] == [4, 5]


def test_unseeded_the_rest_of_a_pass_is_the_rest_of_the_same_permutation(tmp_path: Path) -> None:
    """Nothing but the checkpoint can know it. Each row's loss is a power of two, so a batch's loss tells its rows."""
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1, kernel_initializer="zeros")])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    y = np.sqrt(2.0 ** np.arange(16))[:, None]
    arguments = {"model": model, "x": np.zeros((16, 1)), "y": y, "batch_size": 2, "epochs": 2}
    case = Case(lambda folder: dict(arguments), tmp_path, seeded=False)
    context.set_global_seed(None)  # as in a new process; there is no public way back
    with pytest.raises(Cut):
        case.fit("cut", 13, {"every": "1 steps"})
    case.fit("cut", None, {"every": "1 steps"})
    for epoch in np.split(2 * case.history.steps["step/loss"], 2):
        assert sum(round(value) for value in epoch) == 2**16 - 1
        rows = [row for value in epoch for row in range(16) if round(value) >> row & 1]
        assert sorted(rows) == [*range(16)]


def numbers() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    x, y = data(40)
    for i in itertools.count():
        rows = np.arange(i, i + BATCH) % 40
        yield x[rows], y[rows]


def test_a_generator_is_read_again_and_said_to_be(tmp_path: Path) -> None:
    case = Case(lambda folder: arrays(x=numbers(), y=None, batch_size=None, steps_per_epoch=4), tmp_path)
    want = case.fit("undisturbed")
    with pytest.warns(UserWarning, match="`x`: a Python generator begins anew"), pytest.raises(Cut):
        case.fit("cut", 6, {"every": "2 steps"})
    with pytest.raises(fitcore.checkpoint.CheckpointError, match=r'must" can.t be kept. `x`: a Python generator'):
        case.fit("cut", None, {"resume": "must", "every": "2 steps"})
    with pytest.warns(UserWarning, match="`x`: a Python generator begins anew"):
        assert differing(want, case.fit("cut", None, {"every": "2 steps"})) == []
