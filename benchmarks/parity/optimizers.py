"""Optimizers and precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

from benchmarks.parity.setup import Impossible, Setup, case, mlp, regression, stack

MUON_FAILS = "Muon of Keras 3.12 fails with TensorFlow: its variables have no `path`"


def optimizer_case(name: str, text: str, make: Callable[[], keras.optimizers.Optimizer]) -> None:
    """Register the MLP trained by the optimizer that `make` returns."""

    def build() -> Setup:
        return mlp(optimizer=make()), regression() | {"epochs": 2}

    build.__name__, build.__doc__ = name, text
    case(build)


def named(name: str, *arguments: Any, **keywords: Any) -> keras.optimizers.Optimizer:
    """An optimizer that only some versions of Keras have."""
    if not hasattr(keras.optimizers, name):
        raise Impossible(f"Keras {keras.__version__} has no {name}")
    return getattr(keras.optimizers, name)(*arguments, **keywords)


def muon() -> keras.optimizers.Optimizer:
    if keras.__version__.startswith("3.12."):
        raise Impossible(MUON_FAILS)
    return keras.optimizers.Muon(0.01)


def decaying() -> keras.optimizers.schedules.LearningRateSchedule:
    return keras.optimizers.schedules.CosineDecay(0.05, decay_steps=10, warmup_steps=3, warmup_target=0.1)


def undecayed_biases() -> keras.optimizers.Optimizer:
    optimizer = keras.optimizers.AdamW(0.01, weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    return optimizer


OPT = keras.optimizers
SCHEDULES = keras.optimizers.schedules

optimizer_case("sgd", "SGD without momentum", lambda: OPT.SGD(0.05))
optimizer_case("sgd_nesterov", "SGD with Nesterov momentum", lambda: OPT.SGD(0.05, momentum=0.9, nesterov=True))
optimizer_case("adam_amsgrad", "Adam with amsgrad", lambda: OPT.Adam(0.01, amsgrad=True))
optimizer_case("adamw", "AdamW", lambda: OPT.AdamW(0.01, weight_decay=0.1))
optimizer_case("adamw_undecayed_biases", "AdamW with biases excluded from weight decay", undecayed_biases)
optimizer_case("adamax", "Adamax", lambda: OPT.Adamax(0.01))
optimizer_case("adafactor", "Adafactor", lambda: OPT.Adafactor(0.01))
optimizer_case("rmsprop_centered", "RMSprop, centered, with momentum", lambda: OPT.RMSprop(0.01, momentum=0.5, centered=True))
optimizer_case("adagrad", "Adagrad", lambda: OPT.Adagrad(0.05))
optimizer_case("adadelta", "Adadelta", lambda: OPT.Adadelta(1.0))
optimizer_case("nadam", "Nadam", lambda: OPT.Nadam(0.01))
optimizer_case("lamb", "Lamb", lambda: OPT.Lamb(0.01))
optimizer_case("lion", "Lion", lambda: OPT.Lion(0.01))
optimizer_case("muon", "Muon", muon)
optimizer_case("schedule_free_adamw", "ScheduleFreeAdamW", lambda: named("ScheduleFreeAdamW", 0.01))
optimizer_case("ftrl", "Ftrl", lambda: OPT.Ftrl(0.05, l1_regularization_strength=0.01))
optimizer_case("cosine_decay", "CosineDecay with warm-up", lambda: OPT.SGD(decaying()))
optimizer_case("exponential_decay", "ExponentialDecay", lambda: OPT.Adam(SCHEDULES.ExponentialDecay(0.05, 5, 0.8)))
optimizer_case(
    "piecewise_decay", "PiecewiseConstantDecay", lambda: OPT.SGD(SCHEDULES.PiecewiseConstantDecay([4, 9], [0.1, 0.05, 0.01]))
)
optimizer_case("clipnorm", "clipnorm", lambda: OPT.Adam(0.01, clipnorm=0.1))
optimizer_case("clipvalue", "clipvalue", lambda: OPT.SGD(0.05, clipvalue=0.01))
optimizer_case("global_clipnorm", "global_clipnorm", lambda: OPT.SGD(0.05, global_clipnorm=0.1))
optimizer_case("weight_decay", "weight_decay of SGD", lambda: OPT.SGD(0.05, weight_decay=0.02))
optimizer_case("moving_average", "use_ema", lambda: OPT.Adam(0.01, use_ema=True, ema_momentum=0.9))
optimizer_case(
    "moving_average_overwrites",
    "use_ema with ema_overwrite_frequency",
    lambda: OPT.Adam(0.01, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=3),
)
optimizer_case("gradient_accumulation", "gradient_accumulation_steps", lambda: OPT.Adam(0.01, gradient_accumulation_steps=3))
optimizer_case(
    "accumulation_clipping_average",
    "Gradient accumulation, clipping, weight decay and use_ema together",
    lambda: OPT.AdamW(0.01, gradient_accumulation_steps=2, global_clipnorm=0.1, use_ema=True, ema_momentum=0.9),
)
optimizer_case("loss_scale_in_float32", "LossScaleOptimizer in float32", lambda: OPT.LossScaleOptimizer(OPT.Adam(0.01), 4.0))


class Halving(keras.optimizers.SGD):
    """SGD by half steps."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        super().update_step(0.5 * gradient, variable, learning_rate)


optimizer_case("optimizer_of_ones_own", "An optimizer class of one's own", lambda: Halving(0.05, momentum=0.5))


@case
def several_optimizers() -> Setup:
    """MultiOptimizer: layers with optimizers of their own."""
    kernels, biases = keras.optimizers.Adam(0.01), keras.optimizers.SGD(0.05)
    optimizer = named("MultiOptimizer", lambda variable: biases if variable.path.endswith("bias") else kernels)
    return mlp(optimizer=optimizer), regression() | {"epochs": 2}


def fused_case(name: str, text: str, make: Callable[[], keras.optimizers.Optimizer], policy: str = "float32") -> None:
    """Register a deep model with all forms of the fused update: weights large, small and many, one with sparse gradients."""

    def build() -> Setup:
        keras.config.set_dtype_policy(policy)
        body = [layers.Embedding(9, 6), layers.Flatten(), *(layers.Dense(18, activation="relu") for _ in range(4))]
        output = layers.Dense(1, dtype="float32", kernel_constraint=keras.constraints.UnitNorm())
        x, y = np.random.default_rng(0).integers(0, 9, (80, 4)), np.random.default_rng(1).normal(size=(80, 1)).astype("float32")
        model = keras.Sequential([keras.Input((4,), dtype="int32"), *body, output])
        model.compile(make(), "mse")
        return model, {"x": x, "y": y, "batch_size": 8, "epochs": 2}

    build.__name__, build.__doc__ = name, text
    case(build)


fused_case(
    "fused_adam",
    "Fused: Adam with clipnorm, weight decay, use_ema and a sparse gradient",
    lambda: OPT.Adam(decaying(), clipnorm=0.1, weight_decay=0.01, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=5),
)
fused_case(
    "fused_sgd",
    "Fused: SGD with Nesterov momentum, accumulation, global_clipnorm and weight decay",
    lambda: OPT.SGD(0.05, momentum=0.9, nesterov=True, gradient_accumulation_steps=3, global_clipnorm=0.5, weight_decay=0.01),
)
fused_case(
    "fused_rmsprop",
    "Fused: RMSprop, centered, with momentum and a moving average",
    lambda: OPT.RMSprop(0.01, momentum=0.5, centered=True, use_ema=True, ema_momentum=0.9),
)
fused_case(
    "fused_mixed_float16",
    "Fused: AdamW with amsgrad under mixed_float16",
    lambda: OPT.AdamW(0.01, amsgrad=True),
    "mixed_float16",
)


@case
def mixed_float16() -> Setup:
    """mixed_float16, from a loss scale that overflows: skipped updates and both changes of the scale occur."""
    keras.config.set_dtype_policy("mixed_float16")
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01), initial_scale=2.0**18, dynamic_growth_steps=4)
    return mlp(optimizer=optimizer), regression() | {"epochs": 3}


@case
def float64() -> Setup:
    """floatx float64."""
    keras.config.set_floatx("float64")
    return mlp(), regression() | {"epochs": 2}


@case
def mixed_float16_by_policy() -> Setup:
    """mixed_float16 with an optimizer that compile wraps; BatchNormalization."""
    keras.config.set_dtype_policy("mixed_float16")
    body = (layers.Dense(8), layers.BatchNormalization(), layers.Dropout(0.2), layers.Dense(1, dtype="float32"))
    return stack(*body), regression() | {"epochs": 2, "validation_split": 0.2}


@case
def mixed_bfloat16() -> Setup:
    """mixed_bfloat16."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    return mlp(metrics=["mae"]), regression() | {"epochs": 2}


@case
def bfloat16() -> Setup:
    """Weights in bfloat16."""
    keras.config.set_dtype_policy("bfloat16")
    return mlp(), regression() | {"epochs": 2}
