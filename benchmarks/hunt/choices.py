"""What arguments are drawn from: source text of values, some of which depend on the input's shape."""

from __future__ import annotations

import random
from collections.abc import Callable

import keras

Shape = tuple[int, ...]


def activations() -> list[str]:
    """Names of all activations that Keras exports and that keep the shape; source text of those that aren't found by name."""
    not_activations = ("get", "serialize", "deserialize", "glu", "threshold")
    names = [name for name in dir(keras.activations) if name[0] != "_" and name not in not_activations]
    return [repr(name) for name in names] + ["threshold"]


ACTIVATIONS = activations()
SPECIAL = {"threshold": "lambda x: keras.activations.threshold(x, 0.1, 0.0)"}


def _any(*values: str) -> Callable[[random.Random, Shape], str]:
    return lambda random, shape: random.choice(values)


def _activation(random: random.Random, shape: Shape) -> str:
    chosen = random.choice(ACTIVATIONS)
    return SPECIAL.get(chosen, chosen)


def _permutation(random: random.Random, shape: Shape) -> str:
    axes = list(range(1, len(shape) + 1))
    random.shuffle(axes)
    return repr(tuple(axes))


def _rnn(random: random.Random, shape: Shape) -> str:
    cell = random.choice(("LSTM", "GRU", "SimpleRNN"))
    return f"layers.{cell}({random.randint(2, 4)}, return_sequences={random.random() < 0.5}, dropout={random.choice((0, 0.2))})"


CELLS = ("layers.LSTMCell(3)", "layers.GRUCell(3)", "layers.SimpleRNNCell(2, activation='relu')")

INITIALIZERS = (
    "glorot_normal",
    "he_uniform",
    "lecun_normal",
    "orthogonal",
    "random_normal",
    "truncated_normal",
    "variance_scaling",
)
FUNCTIONS = (
    "lambda x: 2 * x - 0.1",
    "keras.ops.square",
    "lambda x: keras.ops.sin(x) + x",
    "lambda x: x * keras.ops.sigmoid(x)",
    "lambda x: tf.nn.relu(x) + 0.1 * x",
)
VALUES: dict[str, Callable[[random.Random, Shape], str]] = {
    "units": lambda random, shape: str(random.randint(1, 6)),
    "activation": _activation,
    "regularizer": _any(
        "'l1'",
        "'l2'",
        "keras.regularizers.L1L2(1e-3, 1e-2)",
        "keras.regularizers.L2(1e-2)",
        "keras.regularizers.L1(1e-3)",
        "keras.regularizers.OrthogonalRegularizer(0.01)",
    ),
    "constraint": _any(
        "keras.constraints.MaxNorm(0.7)",
        "'non_neg'",
        "'unit_norm'",
        "keras.constraints.MinMaxNorm(0.2, 0.8)",
    ),
    "initializer": _any(*map(repr, INITIALIZERS)),
    "function": _any(*FUNCTIONS),
    "encoding": _any("'multi_hot'", "'count'"),
    "rnn": _rnn,
    "cells": _any(*CELLS, f"[{CELLS[0]}, {CELLS[1]}]", f"layers.StackedRNNCells([{CELLS[1]}, {CELLS[2]}])"),
    "permutation": _permutation,
    "reversed": lambda random, shape: repr(tuple(reversed(shape))),
    "leading": lambda random, shape: repr(shape[:-1]),
    "ones": lambda random, shape: repr((*shape[:-1], 1)),
    "groups": lambda random, shape: str(random.choice([each for each in (1, 2, 3, -1) if each < 0 or shape[-1] % each == 0])),
}  # fmt: skip

SCHEDULES = (
    "keras.optimizers.schedules.ExponentialDecay(0.05, 3, 0.7, staircase=True)",
    "keras.optimizers.schedules.CosineDecay(0.05, 8, warmup_target=0.1, warmup_steps=3)",
    "keras.optimizers.schedules.CosineDecayRestarts(0.05, 4)",
    "keras.optimizers.schedules.PiecewiseConstantDecay([2, 5], [0.1, 0.05, 0.01])",
    "keras.optimizers.schedules.PolynomialDecay(0.05, 6, cycle=True)",
    "keras.optimizers.schedules.InverseTimeDecay(0.05, 4, 0.5)",
)
OPTIMIZERS = {
    "SGD": ("?momentum=0.9", "?nesterov=True"),
    "Adam": ("?amsgrad=True", "?beta_1=0.8", "?epsilon=1e-3"),
    "AdamW": ("?amsgrad=True",),
    "RMSprop": ("?momentum=0.5", "?centered=True", "?rho=0.8"),
    "Adagrad": ("?initial_accumulator_value=0.5",),
    "Adadelta": (),
    "Adamax": (),
    "Nadam": (),
    "Ftrl": ("?l1_regularization_strength=0.01", "?l2_regularization_strength=0.01", "?beta=0.1"),
    "Lion": (),
    "Lamb": (),
    "Adafactor": ("?relative_step=False",),
    "Muon": (),
    "ScheduleFreeAdamW": ("?warmup_steps=3",),
}
OF_ALL = (
    "?clipnorm=0.5",
    "?clipvalue=0.1",
    "?global_clipnorm=0.5",
    "?weight_decay=0.01",
    "?gradient_accumulation_steps=2",
    "?loss_scale_factor=4.0",
    "?use_ema=True, ema_momentum=0.9",
    "?use_ema=True, ema_overwrite_frequency=3",
)

# By what the targets are: losses and metrics that go with them.
LOSSES = {
    "number": (
        "'mse'",
        "'mae'",
        "'huber'",
        "'log_cosh'",
        "'mape'",
        "'cosine_similarity'",
        "keras.losses.MeanSquaredError(reduction='sum')",
        "relative_square",
        "Asymmetric(0.3)",
        "RemembersLoss()",
    ),
    "positive": ("'poisson'", "'msle'", "'kl_divergence'"),
    "binary": (
        "'binary_crossentropy'",
        "keras.losses.BinaryCrossentropy(label_smoothing=0.1)",
        "'binary_focal_crossentropy'",
        "'hinge'",
        "'squared_hinge'",
        "keras.losses.Dice()",
        "keras.losses.Tversky()",
    ),
    "one_hot": (
        "'categorical_crossentropy'",
        "keras.losses.CategoricalCrossentropy(label_smoothing=0.1)",
        "'categorical_focal_crossentropy'",
        "'categorical_hinge'",
        "keras.losses.CategoricalGeneralizedCrossEntropy()",
    ),
    "class": ("'sparse_categorical_crossentropy'", "'sparse_categorical_crossentropy'", "keras.losses.Circle()"),
    "class_logits": ("keras.losses.SparseCategoricalCrossentropy(from_logits=True)",),
}
HEADS = {
    "number": ("None", "'linear'", "'tanh'"),
    "positive": ("'softplus'", "'exponential'", "'sigmoid'"),
    "binary": ("'sigmoid'",),
    "one_hot": ("'softmax'",),
    "class": ("'softmax'",),
    "class_logits": ("None",),
}
METRICS = {
    "number": (
        "'mae'",
        "'mse'",
        "keras.metrics.RootMeanSquaredError()",
        "keras.metrics.CosineSimilarity()",
        "keras.metrics.LogCoshError()",
        "keras.metrics.MeanAbsolutePercentageError()",
        "Spread()",
        "largest_error",
        "keras.metrics.R2Score()",
        "keras.metrics.ConcordanceCorrelation()",
        "keras.metrics.PearsonCorrelation()",
    ),
    "positive": ("'kl_divergence'", "keras.metrics.Poisson()", "keras.metrics.MeanSquaredLogarithmicError()"),
    "binary": (
        "'accuracy'",
        "keras.metrics.AUC(num_thresholds=10)",
        "keras.metrics.Precision()",
        "keras.metrics.Recall()",
        "keras.metrics.F1Score(threshold=0.5)",
        "keras.metrics.FBetaScore(beta=0.5, threshold=0.5)",
        "keras.metrics.BinaryIoU()",
        "keras.metrics.TruePositives()",
        "keras.metrics.FalsePositives()",
        "keras.metrics.TrueNegatives()",
        "keras.metrics.FalseNegatives()",
        "keras.metrics.SensitivityAtSpecificity(0.5, num_thresholds=9)",
        "keras.metrics.SpecificityAtSensitivity(0.5, num_thresholds=9)",
        "keras.metrics.PrecisionAtRecall(0.5, num_thresholds=9)",
        "keras.metrics.RecallAtPrecision(0.5, num_thresholds=9)",
        "keras.metrics.Hinge()",
        "keras.metrics.SquaredHinge()",
        "keras.metrics.BinaryAccuracy()",
        "keras.metrics.BinaryCrossentropy()",
    ),
    "one_hot": (
        "'accuracy'",
        "keras.metrics.TopKCategoricalAccuracy(2)",
        "keras.metrics.CategoricalHinge()",
        "keras.metrics.OneHotMeanIoU(3)",
        "keras.metrics.OneHotIoU(3, [0, 1])",
        "keras.metrics.CategoricalCrossentropy()",
        "keras.metrics.CategoricalAccuracy()",
    ),
    "class": (
        "'accuracy'",
        "keras.metrics.SparseTopKCategoricalAccuracy(2)",
        "keras.metrics.SparseCategoricalCrossentropy()",
        "keras.metrics.SparseCategoricalAccuracy()",
        "keras.metrics.IoU(3, [0, 1], sparse_y_pred=False)",
        "keras.metrics.MeanIoU(3, sparse_y_pred=False)",
    ),
    "class_logits": ("'accuracy'", "keras.metrics.SparseCategoricalCrossentropy(from_logits=True)"),
}

NO_LOSSES = {
    "CTC": "takes sequences of labels, and a blank among them",
    "Loss": "is the base of all",
}
NO_METRICS = {
    "Mean": "takes values, not targets; each model has one, of its loss",
    "MeanMetricWrapper": "wraps a function: each function in a list of metrics becomes one",
    "Metric": "is the base of all",
    "Sum": "takes values, not targets",
}
