"""Kinds of model."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import layers

from benchmarks.parity.setup import PARTIAL, WHOLE, Setup, case, images, mlp, regression, sequences, stack, tokens, two_heads


@case
def mlp_dropout() -> Setup:
    """An MLP with dropout; the batch size divides the rows."""
    return mlp(), regression(WHOLE) | {"epochs": 3}


@case
def mlp_dropout_partial_batch() -> Setup:
    """An MLP with dropout; the last batch is smaller."""
    return mlp(), regression(PARTIAL) | {"epochs": 3}


def cnn() -> keras.Model:
    body = (layers.Conv2D(4, 3, activation="relu"), layers.BatchNormalization(), layers.MaxPooling2D(), layers.Flatten())
    head = (layers.Dropout(0.3), layers.Dense(3, activation="softmax"))
    return stack(*body, *head, shape=(8, 8, 1), loss="sparse_categorical_crossentropy", metrics=["accuracy"])


@case
def cnn_batchnorm() -> Setup:
    """A CNN with BatchNormalization and dropout."""
    return cnn(), images(WHOLE) | {"epochs": 2}


@case
def cnn_batchnorm_partial_batch() -> Setup:
    """A CNN with BatchNormalization and dropout; the last batch is smaller."""
    return cnn(), images(PARTIAL) | {"epochs": 2}


@case
def lstm_dropout() -> Setup:
    """An LSTM with dropout on its inputs."""
    return stack(layers.LSTM(6, dropout=0.2), layers.Dense(1), shape=(5, 3)), sequences(PARTIAL) | {"epochs": 2}


@case
def gru() -> Setup:
    """A GRU."""
    return stack(layers.GRU(6), layers.Dense(1), shape=(5, 3)), sequences(WHOLE) | {"epochs": 2}


@case
def gru_over_twelve_times() -> Setup:
    """A GRU over 12 times."""
    return stack(layers.GRU(6), layers.Dense(1), shape=(12, 3)), sequences(PARTIAL, times=12) | {"epochs": 2}


@case
def rnn_over_forty_times() -> Setup:
    """A SimpleRNN and an LSTM over 40 times, more than fitcore writes out."""
    body = (layers.SimpleRNN(4, return_sequences=True), layers.LSTM(4, go_backwards=True), layers.Dense(1))
    return stack(*body, shape=(40, 3)), sequences(PARTIAL, times=40) | {"epochs": 2}


@case
def stateful_rnn() -> Setup:
    """A stateful GRU, which carries its state from batch to batch."""
    model = keras.Sequential([keras.Input(batch_shape=(20, 5, 3)), layers.GRU(6, stateful=True), layers.Dense(1)])
    model.compile("adam", "mse")
    return model, sequences(PARTIAL) | {"epochs": 2, "batch_size": 20, "shuffle": False}


def attention() -> keras.Model:
    inputs = keras.Input((6,))
    words = layers.Embedding(20, 8)(inputs)
    words += layers.MultiHeadAttention(2, 4, dropout=0.2)(words, words)
    model = keras.Model(inputs, layers.Dense(1, activation="sigmoid")(layers.GlobalAveragePooling1D()(words)))
    model.compile("adam", "binary_crossentropy")
    return model


@case
def attention_dropout() -> Setup:
    """Embedding and MultiHeadAttention with dropout."""
    return attention(), tokens(WHOLE) | {"epochs": 2}


@case
def attention_dropout_partial_batch() -> Setup:
    """Embedding and MultiHeadAttention with dropout; the last batch is smaller."""
    return attention(), tokens(PARTIAL) | {"epochs": 2}


@case
def embedding_sparse_gradients() -> Setup:
    """Sparse gradients: rows that a batch doesn't meet get no gradient, and Adam moves them all the same."""
    body = (layers.Embedding(40, 4), layers.Flatten(), layers.Dense(1, activation="sigmoid"))
    return stack(*body, loss="binary_crossentropy"), tokens(PARTIAL) | {"epochs": 2}


@case
def dict_inputs_and_outputs() -> Setup:
    """Dicts of inputs and outputs, with losses, loss_weights and metrics by output."""
    model, data = two_heads(metrics={"value": ["mae", "mse"], "kind": ["accuracy"]})
    return model, data | {"epochs": 2, "validation_split": 0.2}


@case
def list_inputs() -> Setup:
    """A list of input arrays."""
    inputs = [keras.Input((4,)), keras.Input((2,))]
    model = keras.Model(inputs, layers.Dense(1)(layers.Dropout(0.2)(layers.Concatenate()(inputs))))
    model.compile("adam", "mse")
    data = regression()
    return model, {"x": [data["x"][:, :4], data["x"][:, 4:]], "y": data["y"], "epochs": 2}


@case
def regularizers() -> Setup:
    """Kernel and bias regularizers."""
    hidden = layers.Dense(8, activation="relu", kernel_regularizer=keras.regularizers.L1(1e-3), bias_regularizer="l2")
    return stack(hidden, layers.Dense(1, kernel_regularizer=keras.regularizers.L1L2(1e-3, 1e-2))), regression() | {"epochs": 2}


class Penalty(layers.Layer):
    """Adds a loss of its own."""

    def call(self, x: tf.Tensor) -> tf.Tensor:
        self.add_loss(0.01 * keras.ops.mean(keras.ops.square(x)))
        return x


@case
def add_loss_and_activity_regularizer() -> Setup:
    """add_loss and an activity regularizer."""
    hidden = layers.Dense(8, activation="relu", activity_regularizer=keras.regularizers.L2(1e-2))
    return stack(hidden, Penalty(), layers.Dense(1)), regression() | {"epochs": 2, "validation_split": 0.2}


@case
def frozen_layer() -> Setup:
    """A frozen layer."""
    return stack(layers.Dense(8, activation="relu", trainable=False), layers.Dense(1)), regression() | {"epochs": 2}


@case
def no_trainable_weights() -> Setup:
    """A model without trainable weights."""
    return stack(layers.Dropout(0.3), layers.Dense(1, trainable=False), metrics=["mae"]), regression() | {"epochs": 2}


class Lazy(keras.Model):
    """Subclassed; built when it sees its first batch."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.dropout, self.head = layers.Dense(8, activation="relu"), layers.Dropout(0.3), layers.Dense(1)

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        return self.head(self.dropout(self.hidden(x), training=training))


@case
def subclassed_lazily_built() -> Setup:
    """A subclassed model, built by its first batch."""
    model = Lazy()
    model.compile("adam", "mse")
    return model, regression() | {"epochs": 2}


@case
def several_dropouts() -> Setup:
    """Dropout, SpatialDropout1D, AlphaDropout and GaussianNoise, some with seeds of their own."""
    body = (
        layers.SpatialDropout1D(0.2, seed=7),
        layers.GRU(6, dropout=0.1, recurrent_dropout=0.2, seed=3),
        layers.AlphaDropout(0.1),
        layers.GaussianNoise(0.1),
        layers.Dense(4),
        layers.Dropout(0.3, seed=5),
        layers.Dense(1),
    )
    return stack(*body, shape=(5, 3)), sequences(PARTIAL) | {"epochs": 2}


@case
def seed_generator_in_a_layer() -> Setup:
    """A layer that draws from its own SeedGenerator (a variational sampling)."""
    return stack(layers.Dense(4), Sampling(), layers.Dense(1)), regression() | {"epochs": 2}


class Sampling(layers.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.seed = keras.random.SeedGenerator(11)

    def call(self, x: Any) -> Any:
        return x + 0.1 * keras.random.normal(keras.ops.shape(x), seed=self.seed)


@case
def spectral_normalization() -> Setup:
    """SpectralNormalization, which updates its own state."""
    body = (layers.SpectralNormalization(layers.Dense(8, activation="relu")), layers.Dense(1))
    return stack(*body), regression() | {"epochs": 2, "validation_split": 0.2}


@case
def normalizations() -> Setup:
    """LayerNormalization, GroupNormalization, UnitNormalization and an adapted Normalization."""
    adapted = layers.Normalization()
    adapted.adapt(regression()["x"])
    body = (layers.Dense(8), layers.LayerNormalization(), layers.GroupNormalization(2), layers.UnitNormalization())
    return stack(adapted, *body, layers.Dense(1)), regression() | {"epochs": 2}


@case
def image_augmentation() -> Setup:
    """Random flips, rotations and contrast in the model."""
    body = (layers.RandomFlip(seed=1), layers.RandomRotation(0.1, seed=2), layers.RandomContrast(0.2, seed=3))
    head = (layers.Conv2D(4, 3, activation="relu"), layers.GlobalAveragePooling2D(), layers.Dense(3, activation="softmax"))
    return stack(*body, *head, shape=(8, 8, 1), loss="sparse_categorical_crossentropy"), images(PARTIAL) | {"epochs": 2}


@case
def bidirectional_with_mask() -> Setup:
    """A Bidirectional LSTM over an Embedding that masks zeros."""
    body = (
        layers.Embedding(20, 4, mask_zero=True),
        layers.Bidirectional(layers.LSTM(4)),
        layers.Dense(1, activation="sigmoid"),
    )
    return stack(*body, loss="binary_crossentropy"), tokens(PARTIAL) | {"epochs": 2}


@case
def constraints() -> Setup:
    """Weight constraints."""
    body = (layers.Dense(8, kernel_constraint="max_norm"), layers.Dense(1, kernel_constraint="non_neg"))
    return stack(*body), regression() | {"epochs": 2}


@case
def nested_models_and_shared_layers() -> Setup:
    """A model inside a model, its layers shared between two inputs."""
    encoder = keras.Sequential([keras.Input((3,)), layers.Dense(4, activation="relu"), layers.Dropout(0.2)])
    inputs = keras.Input((6,))
    both = layers.Concatenate()([encoder(inputs[:, :3]), encoder(inputs[:, 3:])])
    model = keras.Model(inputs, layers.Dense(1)(both))
    model.compile("adam", "mse")
    return model, regression() | {"epochs": 2}


@case
def separable_convolutions() -> Setup:
    """Separable, depthwise and transposed convolutions, batches normalized."""
    body = (layers.SeparableConv2D(4, 3), layers.BatchNormalization(), layers.DepthwiseConv2D(3), layers.Conv2DTranspose(2, 3))
    head = (layers.GlobalMaxPooling2D(), layers.Dense(3, activation="softmax"))
    return stack(*body, *head, shape=(8, 8, 1), loss="sparse_categorical_crossentropy"), images(PARTIAL) | {"epochs": 2}
