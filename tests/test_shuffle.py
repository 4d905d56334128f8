"""The order of rows: Keras's own, quirk included, and one that can be computed again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import fitcore
from fitcore.data import KerasOrder

ROWS = 37


class Rows(keras.Model):
    """Keeps the row numbers it is trained on, in their order, in a variable of its own."""

    def __init__(self, steps: int, rows: int) -> None:
        super().__init__()
        self.head = layers.Dense(1)
        self.seen = tf.Variable(tf.zeros([steps * rows], tf.int32), trainable=False)
        self.count = tf.Variable(0, trainable=False)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        numbers = tf.cast(tf.reshape(x, [-1]), tf.int32)
        places = self.count + tf.range(tf.size(numbers))
        with tf.control_dependencies([self.seen.scatter_nd_update(places[:, None], numbers)]):
            self.count.assign_add(tf.size(numbers))
        return self.head(x)


def orders(
    fit: Callable[..., Any], epochs: int = 3, rows: int = ROWS, seed: int | None = 1, fits: int = 1, **arguments: Any
) -> list[list[int]]:
    """The order of rows in each epoch of each fit, as the model itself met them."""
    keras.utils.set_random_seed(0)
    model = Rows(epochs * fits, rows)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    model(np.zeros((1, 1), "float32"))
    model.count.assign(0)
    if seed is not None:
        keras.utils.set_random_seed(seed)
    x = np.arange(rows, dtype="float32")[:, None]
    for _ in range(fits):
        fit(model, x, 0 * x, **{"batch_size": 5, "epochs": epochs, "verbose": 0} | arguments)
    met = model.seen.numpy()[: int(model.count)].tolist()
    return [met[start : start + rows] for start in range(0, len(met), rows)]


def test_the_probe() -> None:
    assert orders(keras.Model.fit, shuffle=False) == [list(range(ROWS))] * 3


@pytest.mark.parametrize("rows", [35, 37, 9])
@pytest.mark.parametrize("shuffle", [True, "batch", False])
def test_orders_are_those_of_keras(shuffle: Any, rows: int) -> None:
    """Whole batches, a partial one, and a single one; two fits of two epochs. A seed gives one permutation for all."""
    batch = 16 if rows == 9 else 5
    mine = orders(fitcore.fit, 2, rows, fits=2, shuffle=shuffle, batch_size=batch)
    assert mine == orders(keras.Model.fit, 2, rows, fits=2, shuffle=shuffle, batch_size=batch)
    assert mine == [mine[0]] * 4
    assert sorted(mine[0]) == list(range(rows))
    assert (mine[0] == list(range(rows))) == (shuffle is False)
    if shuffle == "batch":
        for start in range(0, rows, batch):
            assert sorted(mine[0][start : start + batch]) == list(range(start, min(start + batch, rows)))


def test_the_seed_and_the_batch_size_decide() -> None:
    """Another seed, another order; another batch size, the same. And the order can be asked for without a fit."""
    first = orders(fitcore.fit, 1)[0]
    assert orders(fitcore.fit, 1, seed=2)[0] != first
    assert orders(fitcore.fit, 1, batch_size=8)[0] == first
    keras.utils.set_random_seed(1)
    for pass_index in (0, 7):
        assert KerasOrder(True).rows(pass_index, ROWS, 5).numpy().tolist() == first
    tf.random.set_seed(2)
    assert KerasOrder(True).rows(0, ROWS, 5).numpy().tolist() != first


def test_steps_per_epoch_below_a_pass() -> None:
    """The pass runs on over epochs. It ends in the third, which is short; then the permutation starts again."""
    arguments = {"epochs": 6, "batch_size": 5, "steps_per_epoch": 3, "shuffle": True}
    with pytest.warns(UserWarning, match="ran out of data"):
        mine = orders(fitcore.fit, **arguments)
    with pytest.warns(UserWarning, match="ran out of data"):
        assert mine == orders(keras.Model.fit, **arguments)
    assert len(mine) == 2
    assert sorted(mine[0]) == list(range(ROWS))
    assert mine[0] == mine[1]


def unseeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process in which nobody has set TensorFlow's global seed."""
    from tensorflow.python.eager import context

    monkeypatch.setattr(context.context(), "_seed", None)


@pytest.mark.parametrize("shuffle", [True, "batch"])
def test_without_a_seed_each_epoch_differs(shuffle: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    unseeded(monkeypatch)
    order = KerasOrder(shuffle)
    drawn = [tuple(order.rows(i, ROWS, 5).numpy().tolist()) for i in range(3)]
    assert len(set(drawn)) == 3
    for rows in drawn:
        assert sorted(rows) == list(range(ROWS))
    if shuffle == "batch":
        assert sorted(drawn[0][:5]) == [0, 1, 2, 3, 4]
    assert "unseeded" in order.describe()


def test_reshuffle_differs_in_each_epoch_and_can_be_computed_again() -> None:
    mine = orders(fitcore.fit, 3, shuffle=fitcore.Reshuffle(7))
    assert mine == [fitcore.Reshuffle(7).rows(epoch, ROWS).numpy().tolist() for epoch in range(3)]
    assert len({tuple(rows) for rows in mine}) == 3
    for rows in mine:
        assert sorted(rows) == list(range(ROWS))
    assert orders(fitcore.fit, 3, seed=99, shuffle=fitcore.Reshuffle(7)) == mine  # the global seed plays no part
    assert orders(fitcore.fit, 1, shuffle=fitcore.Reshuffle(8))[0] != mine[0]


def test_reshuffle_starts_at_the_epoch_that_fit_starts_at() -> None:
    """So that three epochs in one fit are the same as one, then two."""
    whole = [fitcore.Reshuffle(7).rows(epoch, ROWS).numpy().tolist() for epoch in range(3)]
    assert orders(fitcore.fit, 3, initial_epoch=1, shuffle=fitcore.Reshuffle(7)) == whole[1:]


def test_reshuffle_is_the_same_everywhere() -> None:
    """These numbers are part of what a run can be repeated from."""
    assert fitcore.Reshuffle(0).rows(0, 8).numpy().tolist() == [6, 4, 1, 0, 3, 2, 5, 7]
    with pytest.raises(TypeError, match=r"`seed` must be an int. Received: seed=1\.5"):
        fitcore.Reshuffle(1.5)  # type: ignore[arg-type]


def test_reshuffle_learns_as_well() -> None:
    """Nothing but the order differs: with shuffle off, and a permutation of the rows made by hand, the bits are the same."""
    x = np.random.default_rng(0).normal(size=(ROWS, 2)).astype("float32")
    weights = []
    for by_hand in (False, True):
        keras.utils.set_random_seed(3)
        model = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
        model.compile("adam", "mse")
        for epoch in range(2):
            rows = fitcore.Reshuffle(5).rows(epoch, ROWS).numpy() if by_hand else np.arange(ROWS)
            shuffle = False if by_hand else fitcore.Reshuffle(5)
            fitcore.fit(
                model, x[rows], x[rows, :1], batch_size=5, initial_epoch=epoch, epochs=epoch + 1, verbose=0, shuffle=shuffle
            )
        weights.append([variable.numpy().tobytes() for variable in model.variables])
    assert weights[0] == weights[1]
