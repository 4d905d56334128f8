"""Schedules: against their definitions, against Keras's, and what a fit does under them."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from models import data, linear, state

import fitcore
from fitcore import EachEpoch, Engine, Plateau, schedules
from fitcore.schedules import (
    Chain,
    Constant,
    Cosine,
    CosineRestarts,
    Exponential,
    InverseTime,
    KerasSchedule,
    OneCycle,
    Piecewise,
    Polynomial,
    Warmup,
)

KERAS = keras.optimizers.schedules
BASE = 0.05
FIT: dict[str, Any] = {"batch_size": 4, "verbose": 0}


def at_steps(schedule: Any, steps: int) -> np.ndarray:
    """The schedule's values at steps 0, 1, ..., as a compiled loop computes them, in one call."""
    based = KerasSchedule(schedule, BASE)

    @tf.function(autograph=False)
    def values(n: tf.Tensor) -> tf.Tensor:
        return tf.map_fn(lambda step: based(step), tf.range(n), fn_output_signature=tf.float32)

    return values(tf.constant(steps, tf.int64)).numpy()


# --- definitions ----------------------------------------------------------------------------------------------------------


def cosine(s: np.ndarray, steps: float, alpha: float = 0.0) -> np.ndarray:
    return BASE * ((1 - alpha) * (1 + np.cos(np.pi * np.minimum(s, steps) / steps)) / 2 + alpha)


def cosine_restarts(s: np.ndarray, first: int, t_mul: int, m_mul: float, alpha: float) -> np.ndarray:
    values, start, length, height = np.zeros_like(s), 0, first, 1.0
    while start < len(s):
        here = np.arange(start, min(start + length, len(s)))
        wave = height * (1 + np.cos(np.pi * (here - start) / length)) / 2
        values[here] = BASE * ((1 - alpha) * wave + alpha)
        start, length, height = start + length, length * t_mul, height * m_mul
    return values


def one_cycle(s: np.ndarray, steps: int, pct: float, div: float, final: float) -> np.ndarray:
    """As PyTorch writes it: annealing from one value to the next between two steps."""
    s, peak = np.minimum(s, steps - 1), pct * steps - 1
    low, lowest = BASE / div, BASE / div / final
    up = BASE + (low - BASE) / 2 * (1 + np.cos(np.pi * s / peak))
    down = lowest + (BASE - lowest) / 2 * (1 + np.cos(np.pi * (s - peak) / (steps - 1 - peak)))
    return np.where(s <= peak, up, down)


def polynomial(s: np.ndarray, steps: int, end: float, power: float, base: float = BASE) -> np.ndarray:
    return (base - end) * (1 - np.minimum(s, steps) / steps) ** power + end


DEFINITIONS: dict[str, tuple[Any, Any]] = {
    "constant": (Constant(3), lambda s: np.full_like(s, BASE)),
    "warmup": (Warmup(300, start=0.01), lambda s: 0.01 + (BASE - 0.01) * np.minimum(s, 300) / 300),
    "cosine": (Cosine(700, alpha=0.1), lambda s: cosine(s, 700, 0.1)),
    "cosine_restarts": (CosineRestarts(150, t_mul=2.0, m_mul=0.7), lambda s: cosine_restarts(s, 150, 2, 0.7, 0.0)),
    "cosine_restarts, equal": (CosineRestarts(128, t_mul=1.0, alpha=0.2), lambda s: cosine_restarts(s, 128, 1, 1.0, 0.2)),
    "exponential": (Exponential(100, 0.8), lambda s: BASE * 0.8 ** (s / 100)),
    "staircase": (Exponential(128, 0.5, staircase=True), lambda s: BASE * 0.5 ** (s // 128)),
    "inverse_time": (InverseTime(100, 0.8), lambda s: BASE / (1 + 0.8 * s / 100)),
    "polynomial": (Polynomial(600, end=0.002, power=2.0), lambda s: polynomial(s, 600, 0.002, 2.0)),
    "linear": (schedules.linear(600, 0.3, end=0.4), lambda s: polynomial(s, 600, 0.4, 1.0, 0.3)),
    "piecewise": (Piecewise((99, 500), (0.3, 0.2, 0.1)), lambda s: np.where(s <= 99, 0.3, np.where(s <= 500, 0.2, 0.1))),
    "one_cycle": (OneCycle(800, pct_start=0.25), lambda s: one_cycle(s, 800, 0.25, 25, 1e4)),
    "chain": (
        fitcore.make("schedule", "warmup:100,constant:200,exponential:100:0.8"),
        lambda s: np.where(s < 100, BASE * s / 100, np.where(s < 300, BASE, BASE * 0.8 ** ((s - 300) / 100))),
    ),
    "warm-up and cosine": (
        fitcore.make("schedule", "warmup:500,cosine:10000"),
        lambda s: np.where(s < 500, BASE * s / 500, cosine(s - 500, 10000)),
    ),
    "one's base for those after": (
        Chain((Constant(400, base=0.4), Constant(300), Constant(1, base=0.2))),
        lambda s: np.where(s < 700, 0.4, 0.2),
    ),
    "a function": (lambda step: 1.0 / (1 + tf.cast(step, tf.float32)), lambda s: 1 / (1 + s)),
}


@pytest.mark.parametrize("name", DEFINITIONS)
def test_as_defined(name: str) -> None:
    """In float64 NumPy, over 1,000 steps."""
    schedule, definition = DEFINITIONS[name]
    expected = definition(np.arange(1000, dtype="float64"))
    np.testing.assert_allclose(at_steps(schedule, 1000), expected, rtol=2e-5, atol=2e-6 * np.abs(expected).max())


# --- Keras's --------------------------------------------------------------------------------------------------------------

PAIRS: dict[str, tuple[Any, Any]] = {
    "cosine": (Cosine(10, alpha=0.1), KERAS.CosineDecay(BASE, 10, alpha=0.1)),
    "warmup,cosine": (
        Chain((Warmup(3, start=0.01), Cosine(10))),
        KERAS.CosineDecay(0.01, 10, warmup_target=BASE, warmup_steps=3),
    ),
    "cosine_restarts": (CosineRestarts(3), KERAS.CosineDecayRestarts(BASE, 3)),
    "exponential": (Exponential(4, 0.7), KERAS.ExponentialDecay(BASE, 4, 0.7)),
    "inverse_time": (InverseTime(4, 0.7), KERAS.InverseTimeDecay(BASE, 4, 0.7)),
    "polynomial": (Polynomial(9, end=0.01, power=2.0, cycle=True), KERAS.PolynomialDecay(BASE, 9, 0.01, 2.0, cycle=True)),
    "piecewise": (Piecewise((3, 7), (BASE, 0.01, 0.002)), KERAS.PiecewiseConstantDecay([3, 7], [BASE, 0.01, 0.002])),
    "Keras's own": (KERAS.CosineDecay(BASE, 10), KERAS.CosineDecay(BASE, 10)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_bits_of_keras(name: str) -> None:
    """The floats at each step, and a fit in fitcore with our schedule beside Keras's with its own in the optimizer."""
    ours, theirs = PAIRS[name]
    assert at_steps(ours, 200).tobytes() == at_steps(theirs, 200).tobytes()
    model, other = linear(optimizer=keras.optimizers.SGD(BASE)), linear(optimizer=keras.optimizers.SGD(theirs))
    keras.utils.set_random_seed(0)
    history = fitcore.fit(model, *data(20), **FIT, epochs=3, schedule=ours)
    keras.utils.set_random_seed(0)
    expected = other.fit(*data(20), **FIT, epochs=3)
    assert history.history == expected.history
    assert [w.numpy().tobytes() for w in model.weights] == [w.numpy().tobytes() for w in other.weights]


def test_a_function_of_the_epoch_is_keras_learning_rate_scheduler() -> None:
    def function(epoch: int, rate: float) -> float:
        return rate * 0.7 if epoch else 0.03

    model, other = linear(), linear()
    keras.utils.set_random_seed(0)
    history = fitcore.fit(model, *data(20), **FIT, epochs=3, schedule=EachEpoch(function))
    keras.utils.set_random_seed(0)
    expected = other.fit(*data(20), **FIT, epochs=3, callbacks=[keras.callbacks.LearningRateScheduler(function)])
    assert history.history == expected.history
    assert history.history["learning_rate"][0] == pytest.approx(0.03)
    assert list(state(model).values()) == list(state(other).values())
    assert history.account["calls"] == 3  # no return to the host for its sake
    with pytest.raises(ValueError, match=r"EachEpoch must give a float. Received: None"):
        fitcore.fit(model, *data(20), **FIT, schedule=EachEpoch(lambda epoch, rate: None))


# --- fits under a schedule ------------------------------------------------------------------------------------------------


def test_repeated_fits_are_one_long_fit_with_one_trace() -> None:
    """The steps and the base go on; the optimizer's own rate is put back, and a changed one is a new base."""
    model, other = linear(), linear()
    rates = []
    for _ in range(3):
        history = fitcore.fit(model, *data(20), **FIT, schedule=Cosine(40), record=["step/learning_rate"], shuffle=False)
        rates.extend(history.steps["step/learning_rate"])
        assert float(model.optimizer.learning_rate) == np.float32(0.01)
    assert Engine.of_compiled(model).traces == 1
    long = fitcore.fit(other, *data(20), **FIT, epochs=3, schedule=Cosine(40), record=["step/learning_rate"], shuffle=False)
    assert rates == long.steps["step/learning_rate"].tolist()
    assert rates[-1] < rates[0]
    assert list(state(model).values()) == list(state(other).values())

    model.optimizer.learning_rate = 0.5
    history = fitcore.fit(model, *data(20), **FIT, schedule=Constant(1), record=["step/learning_rate"])
    assert set(history.steps["step/learning_rate"]) == {0.5}
    before = Engine.of_compiled(model).traces
    model.optimizer.learning_rate = 0.25
    history = fitcore.fit(model, *data(20), **FIT, schedule=Constant(1), record=["step/learning_rate"])
    assert set(history.steps["step/learning_rate"]) == {0.25}
    assert Engine.of_compiled(model).traces == before


HYPERPARAMETERS = [
    ("momentum", lambda: keras.optimizers.SGD(0.05, momentum=0.9)),
    ("momentum", lambda: keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True)),
    ("momentum", lambda: keras.optimizers.RMSprop(0.05, momentum=0.9)),
    ("rho", lambda: keras.optimizers.RMSprop(0.05)),
    ("beta_1", lambda: keras.optimizers.Adam(0.05)),
    ("beta_2", lambda: keras.optimizers.Adam(0.05)),
    ("weight_decay", lambda: keras.optimizers.AdamW(0.05, weight_decay=0.1)),
]


@pytest.mark.parametrize(("name", "build"), HYPERPARAMETERS)
def test_hyperparameters_follow_their_schedule(name: str, build: Any) -> None:
    """Held, then changed at the last step, as in Keras, step by step in Python, with another value for its last step."""
    changed = 0.4
    model = linear(optimizer=build())
    arguments = FIT | {"shuffle": False}
    fitcore.fit(model, *data(20), **arguments, schedule={name: lambda step, base: tf.where(step < 4, base, changed)})
    assert getattr(model.optimizer, name) == getattr(build(), name)  # as it was

    other = linear(optimizer=build(), run_eagerly=True)
    other.fit(*(each[:16] for each in data(20)), **arguments)
    setattr(other.optimizer, name, changed)
    other.fit(*(each[16:] for each in data(20)), **arguments)
    ours, theirs = (np.concatenate([w.numpy().ravel() for w in m.weights]) for m in (model, other))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_under_loss_scaling_accumulation_and_eager_steps() -> None:
    def momentum(step: tf.Tensor, base: tf.Tensor) -> tf.Tensor:
        return tf.where(step < 2, base, 0.1)

    plain = keras.optimizers.SGD(0.05, momentum=0.9)
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.05, momentum=0.9), initial_scale=4.0)
    arguments = FIT | {"shuffle": False, "schedule": {"momentum": momentum, "learning_rate": Cosine(9)}}
    models = [
        linear(optimizer=plain),
        linear(optimizer=scaled),
        linear(optimizer=keras.optimizers.SGD.from_config(plain.get_config()), run_eagerly=True),
    ]
    for model in models:
        fitcore.fit(model, *data(20), **arguments)
    first, *others = (model.weights[0].numpy() for model in models)
    for other in others:
        np.testing.assert_allclose(first, other, rtol=1e-6)
    accumulating = linear(optimizer=keras.optimizers.SGD(0.05, momentum=0.9, gradient_accumulation_steps=2))
    fitcore.fit(accumulating, *data(20), **arguments)
    assert not np.allclose(first, accumulating.weights[0].numpy())


def test_the_batch_size_follows_its_schedule_in_one_trace() -> None:
    model = linear()
    rows = {"step/rows": lambda seen: tf.shape(seen.x)[0]}
    schedule = {"batch_size": Piecewise((1, 3), (2.0, 4.0, 8.0)), "learning_rate": Cosine(9)}
    history = fitcore.fit(model, *data(20), batch_size=4, verbose=0, schedule=schedule, record=rows)
    assert history.steps["step/rows"].tolist() == [2, 2, 4, 4, 8]
    assert history.account["traces"] == 1
    double = {"batch_size": lambda step, base: tf.where(step < 2, base, 2 * base)}  # steps are counted from the first fit on
    history = fitcore.fit(linear(), *data(20), batch_size=4, verbose=0, schedule=double, record=rows)
    assert history.steps["step/rows"].tolist() == [4, 4, 8, 4]
    with pytest.raises(ValueError, match="`batch_size` is a function already"):
        fitcore.fit(linear(), *data(20), batch_size=lambda step: 4, schedule=double)


class OwnStep(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.dense = keras.layers.Dense(1, kernel_initializer="ones")

    def call(self, x: Any) -> Any:
        return self.dense(x)

    def train_step(self, batch: Any) -> dict[str, Any]:
        return super().train_step(batch)


def test_a_train_step_of_ones_own_is_scheduled_too() -> None:
    model = OwnStep()
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse")
    model(data(20)[0])  # builds it
    before = model.get_weights()
    fitcore.fit(model, *data(20), **FIT, schedule=lambda step: tf.constant(0.0))
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights()))


# --- plateau --------------------------------------------------------------------------------------------------------------


def flat() -> keras.Model:
    """Its validation loss rises from the first epoch on, since the validation targets are far from what is learned."""
    return linear(optimizer=keras.optimizers.SGD(0.05))


def test_plateau_is_keras_reduce_lr_on_plateau_and_survives_repeated_fits() -> None:
    x, y = data(20)
    arguments = FIT | {"validation_data": (x, -5 * y), "shuffle": False}
    model, other, repeated = flat(), flat(), flat()
    given: dict[str, Any] = {"factor": 0.5, "patience": 2, "cooldown": 1, "min_lr": 0.004}
    history = fitcore.fit(model, x, y, **arguments, epochs=14, hooks=[Plateau(**given)])
    expected = other.fit(x, y, **arguments, epochs=14, callbacks=[keras.callbacks.ReduceLROnPlateau(**given)])
    rates = [np.float64(rate) for rate in expected.history["learning_rate"]]
    assert history.history["val_loss"] == expected.history["val_loss"]
    assert history.steps["step/learning_rate"][4::5].tolist() == rates
    assert len(set(rates)) > 3
    assert list(state(model).values()) == list(state(other).values())

    hook = Plateau(**given)
    for epoch in range(14):
        fitcore.fit(repeated, x, y, **arguments, hooks=[hook])
        if epoch == 6:  # in another process
            kept, hook = hook.state(), Plateau(**given)
            hook.load_state(kept)
    assert list(state(repeated).values()) == list(state(model).values())


# --- bad input ------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class NotFrozen:
    rate: float = 0.1

    def __call__(self, step: Any) -> float:
        return self.rate


SGD, ADAM = keras.optimizers.SGD, keras.optimizers.Adam

REFUSED: dict[str, tuple[Any, Any, type[Exception], str]] = {
    "a number": (SGD, 0.1, TypeError, "must be a function of the step. Received for 'learning_rate': 0.1"),
    "a spec": (SGD, "cosine:10", TypeError, r"fitcore.make\('schedule', 'cosine:10'\)"),
    "no step": (SGD, lambda: 0.1, TypeError, r"callable as \(step\) or \(step, base\)"),
    "not hashable": (SGD, NotFrozen(), TypeError, "must be hashable"),
    "a hook": (SGD, Plateau(), TypeError, "Plateau is a hook; give it in `hooks`"),
    "no such setting": (ADAM, {"momentum": Cosine(5)}, ValueError, "Adam has no 'momentum'.* It has: learning_rate, beta_1"),
    "no velocity": (SGD, {"momentum": Cosine(5)}, ValueError, "momentum=0 keeps no velocity"),
    "no own value": (SGD, {"weight_decay": Cosine(5)}, ValueError, "starts from the optimizer's.* which is None"),
    "epochs of momentum": (SGD, {"momentum": EachEpoch(max)}, TypeError, "EachEpoch sets the learning rate only"),
    "two schedules": (lambda: SGD(KERAS.CosineDecay(0.1, 5)), Cosine(5), ValueError, "has a schedule as its learning_rate"),
    "a vector": (SGD, lambda step: [0.1, 0.2], ValueError, r"must give a scalar. Received: shape \(2,\)"),
    "nothing": (SGD, lambda step: None, ValueError, "`schedule` of 'learning_rate'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_any_step(name: str) -> None:
    build, schedule, kind, message = REFUSED[name]
    model = linear(optimizer=build())
    before = state(model)
    with pytest.raises(kind, match=message):
        fitcore.fit(model, *data(20), **FIT, schedule=schedule)
    assert state(model) == before
    assert Engine.of_compiled(model).schedules == {}


def test_what_a_schedule_sets_no_hook_sets() -> None:
    class Setting(fitcore.Hook):
        def after_epoch(self, view: fitcore.View) -> fitcore.Set:
            return fitcore.Set("learning_rate", 0.1)

    with pytest.raises(ValueError, match="Setting sets the learning rate, which `schedule` sets"):
        fitcore.fit(linear(), *data(20), **FIT, schedule=Cosine(5), hooks=[Setting()])
    with pytest.raises(ValueError, match="holds a Plateau, which changes"):
        fitcore.fit(linear(), *data(20), **FIT, schedule=Cosine(5), hooks=[Plateau()])
    for build, message in (
        (lambda: Cosine(0), "`steps` must be a number of at least 1. Received: steps=0"),
        (lambda: Piecewise((1, 2), (0.1,)), "`values` must be one more"),
        (lambda: Chain((Exponential(5, 0.5), Cosine(5))), "only the last of a chain may have no end"),
        (lambda: OneCycle(2), "`pct_start` must leave steps"),
        (lambda: Plateau(factor=1.5), "`factor` must be in"),
    ):
        with pytest.raises(ValueError, match=message):
            build()


def test_explain_says_so() -> None:
    text = fitcore.explain(linear(), *data(20), schedule={"learning_rate": Cosine(5)})
    assert "schedule    learning_rate: Cosine(steps=5" in text
    assert "has no `schedule` to compare with" in text
