"""The workloads of the benchmarks: six small models whose steps cost from a few microseconds to a few milliseconds, `DEFAULT`,
and others, whose steps cost up to a tenth of a second: a ResNet, a larger transformer, an autoencoder, an embedding of many
words, and the MLP at batch 1 and 1024.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

layers = keras.layers


@dataclass(frozen=True)
class Workload:
    """A compiled model and data for it.

    Attributes:
      build: makes the compiled model.
      data: (number of rows) -> x, y.
      steps: in a timed fit.
      batch: rows in a step.
    """

    build: Callable[[], keras.Model]
    data: Callable[[int], tuple[np.ndarray, np.ndarray]]
    steps: int
    batch: int = 32


def _compiled(model: keras.Model, loss: str = "sparse_categorical_crossentropy", metrics: Any = ("accuracy",)) -> keras.Model:
    model.compile(keras.optimizers.Adam(1e-3), loss, metrics=list(metrics))
    return model


def _classes(*shape: int, classes: int = 10) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
    def data(rows: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(0)
        return rng.random((rows, *shape), dtype=np.float32), rng.integers(0, classes, rows)

    return data


def _linear_data(rows: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.random((rows, 1), dtype=np.float32)
    return x, 2 * x + 1 + 0.1 * rng.standard_normal((rows, 1)).astype(np.float32)


def _series(rows: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((rows, 20, 1)).astype(np.float32), rng.standard_normal((rows, 1)).astype(np.float32)


def _tokens(words: int, length: int) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
    def data(rows: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(0)
        return rng.integers(0, words, (rows, length)), rng.integers(0, 2, rows)

    return data


def _itself(rows: int) -> tuple[np.ndarray, np.ndarray]:
    x, _ = _classes(784)(rows)
    return x, x


def _linear() -> keras.Model:
    return _compiled(keras.Sequential([keras.Input((1,)), layers.Dense(1)]), "mse", ())


def _mlp() -> keras.Model:
    hidden = [layers.Dense(128, activation="relu"), layers.Dropout(0.2)]
    return _compiled(keras.Sequential([keras.Input((784,)), *hidden, layers.Dense(10, activation="softmax")]))


def _deep() -> keras.Model:
    hidden = [layers.Dense(64, activation="relu") for _ in range(10)]
    return _compiled(keras.Sequential([keras.Input((64,)), *hidden, layers.Dense(10, activation="softmax")]))


def _lstm() -> keras.Model:
    return _compiled(keras.Sequential([keras.Input((20, 1)), layers.LSTM(50), layers.Dense(1)]), "mse", ())


def _cnn() -> keras.Model:
    return _compiled(
        keras.Sequential(
            [
                keras.Input((28, 28, 1)),
                layers.Conv2D(16, 3, activation="relu"),
                layers.MaxPooling2D(),
                layers.Conv2D(32, 3, activation="relu"),
                layers.MaxPooling2D(),
                layers.Flatten(),
                layers.Dense(10, activation="softmax"),
            ]
        )
    )


def _transformer(words: int, length: int, width: int, heads: int, blocks: int) -> Callable[[], keras.Model]:
    def build() -> keras.Model:
        tokens = keras.Input((length,), dtype="int32")
        h = layers.Embedding(words, width)(tokens)
        for _ in range(blocks):
            attended = layers.MultiHeadAttention(num_heads=heads, key_dim=width // heads, dropout=0.1)(h, h)
            h = layers.LayerNormalization()(h + attended)
            h = layers.LayerNormalization()(h + layers.Dense(width)(layers.Dense(2 * width, activation="relu")(h)))
        return _compiled(keras.Model(tokens, layers.Dense(2, activation="softmax")(layers.GlobalAveragePooling1D()(h))))

    return build


def _resnet() -> keras.Model:
    """The ResNet for CIFAR-10 of https://arxiv.org/abs/1512.03385, section 4.2, with one block of each width; projections."""

    def convolved(h: keras.KerasTensor, filters: int, size: int, stride: int) -> keras.KerasTensor:
        h = layers.Conv2D(filters, size, stride, padding="same", use_bias=False)(h)
        return layers.BatchNormalization()(h)

    images = keras.Input((32, 32, 3))
    h = layers.ReLU()(convolved(images, 16, 3, 1))
    for filters, stride in ((16, 1), (32, 2), (64, 2)):
        inner = convolved(layers.ReLU()(convolved(h, filters, 3, stride)), filters, 3, 1)
        h = layers.ReLU()(inner + (h if stride == 1 else convolved(h, filters, 1, stride)))
    return _compiled(keras.Model(images, layers.Dense(10, activation="softmax")(layers.GlobalAveragePooling2D()(h))))


def _autoencoder() -> keras.Model:
    hidden = [layers.Dense(units, activation="relu") for units in (256, 64, 256)]
    return _compiled(keras.Sequential([keras.Input((784,)), *hidden, layers.Dense(784)]), "mse", ())


def _embedding() -> keras.Model:
    body = [layers.Embedding(100_000, 32), layers.GlobalAveragePooling1D(), layers.Dense(2, activation="softmax")]
    return _compiled(keras.Sequential([keras.Input((20,), dtype="int32"), *body]))


WORKLOADS: dict[str, Workload] = {
    "linear": Workload(_linear, _linear_data, 3000),
    "mlp": Workload(_mlp, _classes(784), 800),
    "deep": Workload(_deep, _classes(64), 800),
    "lstm": Workload(_lstm, _series, 400),
    "cnn": Workload(_cnn, _classes(28, 28, 1), 300),
    "transformer": Workload(_transformer(100, 16, 32, 2, 1), _tokens(100, 16), 300),
    "resnet": Workload(_resnet, _classes(32, 32, 3), 32),
    "transformer_large": Workload(_transformer(1000, 32, 256, 4, 2), _tokens(1000, 32), 64),
    "autoencoder": Workload(_autoencoder, _itself, 300),
    "embedding": Workload(_embedding, _tokens(100_000, 20), 60),
    "mlp_1": Workload(_mlp, _classes(784), 3000, batch=1),
    "mlp_1024": Workload(_mlp, _classes(784), 40, batch=1024),
}
DEFAULT = tuple(WORKLOADS)[:6]
