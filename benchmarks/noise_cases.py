"""Models whose gradient noise is measured and compared with brute force: a function each, by the name of what it is about.

Each returns (a compiled model, fit's arguments). They are small, since brute force takes a backward pass per example.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import layers

Setup = tuple[keras.Model, dict[str, Any]]
ROWS = 6


@dataclass(frozen=True)
class NoiseCase:
    """A model to measure.

    Attributes:
      build: () -> the compiled model and fit's arguments: one batch, unless they say `batch_size`.
      uncompared: parts of paths of layers for which an example's gradient is defined otherwise than brute force has it.
      split: path parts of layers that only the split estimator can measure, which brute force doesn't compare.
    """

    name: str
    build: Callable[[], Setup]
    uncompared: tuple[str, ...] = ()
    split: tuple[str, ...] = field(default=())


NOISE_CASES: dict[str, NoiseCase] = {}


def case(**options: Any) -> Callable[[Callable[[], Setup]], Callable[[], Setup]]:
    """Register a function as the case of its name."""

    def register(build: Callable[[], Setup]) -> Callable[[], Setup]:
        NOISE_CASES[build.__name__] = NoiseCase(build.__name__, build, **options)
        return build

    return register


def _random(*shape: int) -> np.ndarray:
    return np.random.default_rng(abs(hash(shape)) % 1000).normal(size=shape).astype(keras.config.floatx())


def _stack(*body: keras.Layer, shape: tuple[int | None, ...], loss: Any = "mse", dtype: str | None = None) -> keras.Model:
    """These layers and whatever makes one row out of their output, under a loss with some curvature."""
    model = keras.Sequential([keras.Input(shape, dtype=dtype), *body])
    if len(model.output_shape) > 2:
        model.add(layers.Flatten())
    model.compile(keras.optimizers.SGD(0.01), loss)
    return model


def _data(model: keras.Model, rows: int = ROWS) -> dict[str, np.ndarray]:
    shape = [d or 5 for d in model.input_shape[1:]]
    return {"x": _random(rows, *shape), "y": _random(rows, *model.output_shape[1:])}


def _simple(*body: keras.Layer, shape: tuple[int, ...]) -> Setup:
    model = _stack(*body, shape=shape)
    return model, _data(model)


@case()
def dense() -> Setup:
    return _simple(layers.Dense(5, activation="tanh"), layers.Dense(3, use_bias=False, activation="softmax"), shape=(4,))


@case()
def dense_time_materialized() -> Setup:
    return _simple(layers.Dense(3, activation="tanh"), layers.Dense(2), shape=(9, 4))


@case()
def dense_time_gram() -> Setup:
    return _simple(layers.Dense(8, activation="relu"), layers.Dense(9), shape=(2, 7))


@case()
def einsum_dense() -> Setup:
    body = [
        layers.EinsumDense("abc,cde->abde", output_shape=(5, 3, 2), bias_axes="de", activation="tanh"),
        layers.EinsumDense("abcd,cde->abe", output_shape=(5, 4), bias_axes="e"),
        layers.EinsumDense("...x,xy->...y", output_shape=3, bias_axes="y"),
    ]
    return _simple(*body, shape=(5, 4))


@case()
def einsum_dense_shared_axis() -> Setup:
    return _simple(layers.EinsumDense("abc,bcd->abd", output_shape=(3, 4), bias_axes="bd", activation="tanh"), shape=(3, 5))


@case()
def conv1d() -> Setup:
    body = [layers.Conv1D(3, 3, padding="causal", activation="tanh"), layers.Conv1D(4, 2, strides=2, padding="same")]
    return _simple(*body, shape=(9, 2))


@case()
def conv1d_unknown_length() -> Setup:
    body = [layers.Conv1D(3, 3, padding="same", activation="tanh"), layers.Conv1D(4, 2, strides=2)]
    model = _stack(*body, layers.GlobalMaxPooling1D(), shape=(None, 2))
    return model, {"x": _random(ROWS, 9, 2), "y": _random(ROWS, 4)}


@case()
def conv2d() -> Setup:
    body = [
        layers.Conv2D(3, 3, padding="same", strides=2, activation="tanh"),
        layers.Conv2D(4, (2, 3), dilation_rate=(1, 2), padding="same"),
        layers.MaxPooling2D(),
        layers.Conv2D(80, 1),
        layers.Conv2D(2, 2),  # patches of 320 values: one product per kernel position
    ]
    return _simple(*body, shape=(11, 9, 2))


@case()
def conv2d_grouped() -> Setup:
    return _simple(layers.Conv2D(6, 3, groups=2, activation="tanh"), layers.Conv2D(2, 3), shape=(7, 6, 4))


@case()
def conv3d() -> Setup:
    return _simple(layers.Conv3D(3, 2, activation="tanh"), layers.Conv3D(2, (2, 1, 2), padding="same"), shape=(4, 3, 4, 2))


@case()
def depthwise_conv() -> Setup:
    body = [
        layers.DepthwiseConv2D(3, depth_multiplier=2, activation="tanh"),
        layers.DepthwiseConv2D(2, strides=2, padding="same"),
    ]
    return _simple(*body, shape=(7, 6, 2))


@case()
def depthwise_conv1d() -> Setup:
    return _simple(layers.DepthwiseConv1D(3, activation="tanh"), layers.DepthwiseConv1D(2, depth_multiplier=2), shape=(8, 3))


@case()
def separable_conv() -> Setup:
    body = [layers.SeparableConv2D(4, 3, depth_multiplier=2, activation="tanh"), layers.SeparableConv2D(3, 2, padding="same")]
    return _simple(*body, shape=(7, 6, 2))


@case()
def separable_conv1d() -> Setup:
    return _simple(layers.SeparableConv1D(4, 3, activation="tanh"), layers.SeparableConv1D(2, 2, strides=2), shape=(9, 3))


@case()
def embedding() -> Setup:
    model = _stack(layers.Embedding(7, 3), layers.LSTM(4), shape=(5,), dtype="int32")
    return model, {"x": np.random.default_rng(0).integers(0, 7, (ROWS, 5)), "y": _random(ROWS, 4)}


@case()
def embedding_long_rows() -> Setup:
    model = _stack(layers.Embedding(6, 2), layers.Dense(3, activation="tanh"), shape=(12,), dtype="int32")
    return model, {"x": np.random.default_rng(0).integers(0, 6, (ROWS, 12)), "y": _random(ROWS, 36)}


@case()
def layer_norm() -> Setup:
    body = [layers.Dense(6), layers.LayerNormalization(), layers.Dense(4), layers.LayerNormalization(axis=[1, 2])]
    return _simple(*body, shape=(3, 5))


@case()
def rms_norm() -> Setup:
    return _simple(layers.Dense(6), layers.RMSNormalization(), layers.Dense(4, activation="tanh"), shape=(3, 5))


@case()
def group_norm() -> Setup:
    body = [layers.Conv2D(6, 2), layers.GroupNormalization(3), layers.Conv2D(4, 2), layers.GroupNormalization(-1)]
    return _simple(*body, shape=(6, 5, 2))


@case(uncompared=("dense_before",))
def batch_norm() -> Setup:
    body = [layers.Dense(6, name="dense_before"), layers.BatchNormalization(), layers.Dense(3, activation="tanh")]
    return _simple(*body, shape=(4, 5))


@case()
def lstm() -> Setup:
    return _simple(layers.LSTM(4, return_sequences=True), layers.LSTM(3), layers.Dense(2), shape=(5, 3))


@case()
def lstm_long() -> Setup:
    return _simple(layers.LSTM(3, activation="relu", recurrent_activation="tanh"), layers.Dense(2), shape=(70, 2))


@case()
def lstm_backwards_dropout() -> Setup:
    body = [
        layers.Bidirectional(layers.LSTM(3, return_sequences=True, dropout=0.4)),
        layers.LSTM(2, use_bias=False, unroll=True),
    ]
    return _simple(*body, shape=(5, 3))


@case()
def lstm_states() -> Setup:
    inputs = keras.Input((5, 3))
    sequence, h, c = layers.LSTM(4, return_sequences=True, return_state=True)(inputs)
    decoded = layers.LSTM(4)(sequence, initial_state=[h, c])
    model = keras.Model(inputs, layers.Dense(2)(decoded))
    model.compile("sgd", "mse")
    return model, _data(model)


@case()
def lstm_masked() -> Setup:
    body = [layers.Embedding(6, 3, mask_zero=True), layers.LSTM(4, return_sequences=True), layers.LSTM(3), layers.Dense(2)]
    model = _stack(*body, shape=(5,), dtype="int32")
    return model, {"x": np.random.default_rng(1).integers(0, 3, (ROWS, 5)), "y": _random(ROWS, 2)}


@case()
def gru() -> Setup:
    return _simple(
        layers.GRU(4, return_sequences=True, dropout=0.3), layers.GRU(3, use_bias=False), layers.Dense(2), shape=(5, 3)
    )


@case()
def gru_masked() -> Setup:
    body = [layers.Masking(), layers.GRU(4, return_sequences=True, go_backwards=True), layers.GRU(3), layers.Dense(2)]
    model = _stack(*body, shape=(5, 3))
    data = _data(model)
    data["x"][np.random.default_rng(2).random((ROWS, 5)) < 0.4] = 0
    return model, data


@case()
def stateful_rnn() -> Setup:
    model = keras.Sequential([keras.Input(batch_shape=(ROWS, 5, 3)), layers.LSTM(4, stateful=True), layers.Dense(2)])
    model.compile("sgd", "mse")
    for state in model.layers[0].states:
        state.assign(_random(*state.shape))
    return model, _data(model)


@case()
def simple_rnn() -> Setup:
    body = [layers.SimpleRNN(4, return_sequences=True, recurrent_dropout=0.3), layers.SimpleRNN(3, activation="relu")]
    return _simple(*body, layers.Dense(2), shape=(5, 3))


@case()
def attention() -> Setup:
    inputs = keras.Input((5, 4))
    h = layers.MultiHeadAttention(2, 3, dropout=0.2)(inputs, inputs)
    h = layers.LayerNormalization()(layers.Add()([inputs, h]))
    h = layers.GroupQueryAttention(2, 4, 2)(h, h)
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling1D()(h)))
    model.compile("sgd", "mse")
    return model, _data(model)


# --- how models are put together ------------------------------------------------------------------------------------------


@case()
def shared_layers() -> Setup:
    inputs, other = keras.Input((4,)), keras.Input((3, 4))
    twice = layers.Dense(4, activation="tanh")
    h = twice(twice(inputs))
    merged = layers.Concatenate()([h, layers.Flatten()(twice(other))])
    model = keras.Model([inputs, other], layers.Dense(2)(merged))
    model.compile("sgd", "mse")
    return model, {"x": [_random(ROWS, 4), _random(ROWS, 3, 4)], "y": _random(ROWS, 2)}


class TiedDecoder(layers.Layer):
    """Logits by an embedding's own transpose."""

    def __init__(self, embedding: layers.Embedding) -> None:
        super().__init__()
        self.embedding = embedding

    def call(self, inputs: Any) -> Any:
        return keras.ops.matmul(inputs, keras.ops.transpose(self.embedding.embeddings))


@case()
def tied_weights() -> Setup:
    tokens = keras.Input((5,), dtype="int32")
    embedding = layers.Embedding(6, 4)
    h = layers.Dense(4, activation="tanh")(embedding(tokens))
    model = keras.Model(tokens, TiedDecoder(embedding)(h))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x = np.random.default_rng(0).integers(0, 6, (ROWS, 5))
    return model, {"x": x, "y": x[:, ::-1]}


class Gate(layers.Layer):
    """A layer that has no rule: two weights, one of them inside a nonlinearity."""

    def build(self, shape: Any) -> None:
        self.gate = self.add_weight(shape=(shape[-1],), initializer="ones")
        self.mix = self.add_weight(shape=(shape[-1], shape[-1]), initializer="glorot_uniform")

    def call(self, inputs: Any) -> Any:
        return keras.ops.sigmoid(inputs * self.gate) * keras.ops.matmul(inputs, self.mix)


@case()
def fallback() -> Setup:
    body = [layers.Conv2DTranspose(3, 2), layers.PReLU(), layers.Flatten(), Gate(), layers.Dense(2)]
    return _simple(*body, shape=(3, 3, 2))


@case()
def fallback_recurrent() -> Setup:
    body = [layers.TimeDistributed(layers.Dense(3, activation="tanh")), layers.GRU(3, reset_after=False), layers.Dense(2)]
    return _simple(*body, shape=(4, 3))


@case()
def frozen_layers() -> Setup:
    model = _stack(layers.Dense(4, activation="tanh"), layers.Dense(4, trainable=False), layers.Dense(2), shape=(3,))
    return model, _data(model)


@case()
def unused_weights() -> Setup:
    inputs = keras.Input((3,))
    used, unused = layers.Dense(2)(inputs), layers.Dense(4)(inputs)
    model = keras.Model(inputs, [used, unused])
    model.compile("sgd", ["mse", None])
    return model, {"x": _random(ROWS, 3), "y": [_random(ROWS, 2), None]}


@case()
def regularized() -> Setup:
    regularizer = keras.regularizers.L1L2(0.01, 0.02)
    model = _stack(layers.Dense(4, kernel_regularizer=regularizer, activation="tanh"), layers.Dense(2), shape=(3,))
    return model, _data(model)


@case()
def dropout() -> Setup:
    return _simple(layers.Dense(8, activation="relu"), layers.Dropout(0.5), layers.Dense(2), shape=(4,))


@case()
def sample_weights() -> Setup:
    model = _stack(layers.Dense(5, activation="tanh"), layers.Dense(2), shape=(4,))
    return model, _data(model) | {"sample_weight": np.linspace(0.0, 2.0, ROWS)}


@case()
def partial_batch() -> Setup:
    model = _stack(layers.Conv1D(4, 2, activation="tanh"), layers.LSTM(3), layers.Dense(2), shape=(5, 3))
    return model, _data(model, ROWS + 4) | {"batch_size": ROWS}


@case()
def classifier() -> Setup:
    model = _stack(layers.Dense(5, activation="relu"), layers.Dense(3, activation="softmax"), shape=(4,))
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model, {"x": _random(ROWS, 4), "y": np.arange(ROWS) % 3}
