"""What the tests of checkpoints fit: a few steps on a small model, and nothing traced twice."""

from __future__ import annotations

import functools
from typing import Any

import keras
import tensorflow as tf
from cuts import Where
from keras import layers
from models import data, noisy

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


def compiled(optimizer: Any = None, body: list[Any] | None = None, **more: Any) -> keras.Model:
    body = body or [layers.Dense(4, activation="relu"), layers.Dense(1)]
    model = keras.Sequential([keras.Input((3,)), *body])
    model.compile(
        **{"optimizer": optimizer or keras.optimizers.SGD(0.05, momentum=0.9), "loss": "mse", "metrics": ["mae"]} | more
    )
    return model


@functools.cache
def plain_model() -> keras.Model:
    return compiled()
