"""Each stopping hook and each rule that follows the noise, against its definition replayed in NumPy over what was recorded."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from models import data, linear, noisy, state

import fitcore
from fitcore import (
    CABS,
    Divergence,
    EarlyStopping,
    InLoop,
    LowSignal,
    NoiseLearningRate,
    NormTest,
    Patience,
    Smoothed,
    StopAfter,
    StopOn,
    Target,
)

X, Y = data(200)
Y = Y + np.random.default_rng(7).normal(size=Y.shape).astype("float32")  # so that noise is left to stop on


def sgd() -> keras.Model:
    return linear(optimizer=keras.optimizers.SGD(0.05))


def fit(model: keras.Model, **arguments: Any) -> keras.callbacks.History:
    """Twenty steps an epoch, three epochs, unless told otherwise."""
    return fitcore.fit(model, X, Y, **{"batch_size": 10, "epochs": 3, "shuffle": False, "verbose": 0} | arguments)


@pytest.fixture(scope="module")
def losses() -> Any:
    return fit(sgd()).steps["step/loss"]


def smoothed(values: Any, decay: float) -> Any:
    weights = decay ** np.arange(len(values))[::-1]
    return np.array([np.sum(values[: i + 1] * weights[-i - 1 :]) / np.sum(weights[-i - 1 :]) for i in range(len(values))])


def first(condition: Any) -> int:
    """After how many values it holds for the first time; it must, and not at once."""
    step = int(np.flatnonzero(condition)[0]) + 1
    assert 1 < step < len(condition)
    return step


def stale(values: Any, patience: int, min_delta: float = 0.0) -> Any:
    """Where the last `patience` values are no improvement on the best before them."""
    best, wait, found = math.inf, 0, []
    for value in values:
        best, wait = (value, 0) if value + min_delta < best else (best, wait + 1)
        found.append(wait >= patience)
    return np.array(found)


RULES: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "patience": (Patience(7), lambda v: stale(v, 7)),
    "patience, min_delta": (Patience(8, min_delta=0.05), lambda v: stale(v, 8, 0.05)),
    "target": (Target(0.4), lambda v: v <= 0.4),
    "target from below": (Target(1.5, "max"), lambda v: v >= 1.5),
    "divergence": (Divergence(1.9), lambda v: v > 1.9 * np.minimum.accumulate(v)),
    "plateau of the smoothed loss": (Smoothed(Patience(6), 0.8), lambda v: stale(smoothed(v, 0.8), 6)),
    "smoothed target": (Smoothed(Target(0.95, "max"), 0.8), lambda v: smoothed(v, 0.8) >= 0.95),
}


@pytest.mark.parametrize("name", RULES)
def test_rules_stop_inside_the_loop_where_their_definition_says(name: str, losses: Any) -> None:
    rule, definition = RULES[name]
    history = fit(sgd(), hooks=[StopOn(rule, "step/loss")])
    assert history.stop_reason.step == first(definition(losses))
    assert history.account["calls"] == -(-history.stop_reason.step // 20)  # no more than without the rule: one an epoch
    assert history.stop_reason.reason.startswith("step/loss: ")


def test_budgets() -> None:
    model, hook = sgd(), StopAfter(steps=33)
    stops = [fit(model, epochs=1, hooks=[hook]).stop_reason for _ in range(2)]  # counts on over fits
    assert (stops[0], stops[1].step) == (None, 33)
    assert fit(sgd(), hooks=[StopAfter(examples=95)]).stop_reason.step == 10
    history = fit(sgd(), hooks=[StopAfter(steps=50, examples=95)], batch_size=30)
    assert (history.stop_reason.step, history.stop_reason.reason) == (4, "4 steps, 120 examples")

    hook = StopAfter(seconds=1e-3)
    assert "seconds" in fit(sgd(), hooks=[hook]).stop_reason.reason
    patient = StopAfter(seconds=1e6)
    assert fit(sgd(), hooks=[patient]).stop_reason is None
    patient.load_state(json.loads(json.dumps({**patient.state(), "seconds": 1e6})))
    assert fit(sgd(), hooks=[patient]).stop_reason.step == 20  # at the first return


@pytest.mark.parametrize("restore", [False, True])
def test_a_loop_of_one_epoch_fits_stops_as_one_long_fit_of_keras_does(restore: bool) -> None:
    def model() -> keras.Model:
        keras.utils.set_random_seed(3)
        return noisy()

    arguments: dict[str, Any] = {"batch_size": 16, "verbose": 0, "validation_split": 0.3}
    keras_s = model()
    early = keras.callbacks.EarlyStopping(patience=3, restore_best_weights=restore)
    theirs = keras_s.fit(X[:60], Y[:60], epochs=60, callbacks=[early], **arguments)

    ours, hook, epochs = model(), EarlyStopping(patience=3, restore_best=restore), 0
    history = None
    while history is None or history.stop_reason is None:
        history = fitcore.fit(ours, X[:60], Y[:60], epochs=1, hooks=[hook], **arguments)
        epochs += 1
        saved = hook.state()
        hook = EarlyStopping(patience=3, restore_best=restore)  # as in another process
        hook.load_state(saved)
    assert 4 < epochs == len(theirs.epoch) < 60
    assert list(state(ours).values()) == list(state(keras_s).values())

    once = model()
    assert (
        len(
            fitcore.fit(
                once, X[:60], Y[:60], epochs=60, hooks=[EarlyStopping(patience=3, restore_best=restore)], **arguments
            ).epoch
        )
        == epochs
    )
    assert list(state(once).values()) == list(state(keras_s).values())


# --- rules that follow the noise ------------------------------------------------------------------------------------------


def faded(values: Any, n: Any, decay: float) -> Any:
    """The running sums after each step."""
    total, sums = 0.0, []
    for value, rows in zip(values, n):
        total = decay * total + (rows - 1) * value if rows >= 2 else total
        sums.append(total)
    return np.array(sums)


def test_low_signal() -> None:
    noise = fit(sgd(), noise=True).noise
    ratio = 10 * faded(noise.grad_norm_sq, noise.batch_size, 0.9) / faded(noise.trace, noise.batch_size, 0.9)
    low = (ratio < 0.5) & (np.arange(len(ratio)) >= 5)
    run = np.array([low[max(i - 2, 0) : i + 1].sum() == 3 for i in range(len(low))])
    history = fit(sgd(), hooks=[InLoop(LowSignal(0.5, patience=3, after=5, decay=0.9))])
    assert history.stop_reason.by == "LowSignal"
    assert history.stop_reason.step == first(run)
    every_other = fitcore.GradientNoise(every=2)
    history = fit(sgd(), hooks=[InLoop(LowSignal(0.5, patience=3, decay=0.9))], noise=every_other)
    assert history.stop_reason.step % 2 == 1  # a step that was measured: the first, the third, ...


def test_the_evidence_based_criterion() -> None:
    evidence = fit(sgd(), noise=fitcore.GradientNoise(evidence=True)).steps["noise/evidence"]
    history = fit(sgd(), hooks=[StopOn(Smoothed(Target(0.0, "max"), 0.8), "noise/evidence")])
    assert history.stop_reason.step == first(smoothed(evidence, 0.8) >= 0)
    with pytest.raises(ValueError, match="noise/evidence"):  # the noise that was asked for hasn't got it
        fit(sgd(), hooks=[StopOn(Target(0.0, "max"), "noise/evidence")], noise=True)


def test_the_norm_test_makes_the_batch_grow() -> None:
    history = fit(sgd(), hooks=[InLoop(NormTest(theta=0.7, most=150, decay=0.8))], batch_size=4)
    noise, n = history.noise, history.noise.batch_size
    needed = np.ceil(faded(noise.trace, n, 0.8) / (0.7**2 * faded(noise.grad_norm_sq + noise.trace / n, n, 0.8)))
    rows, left = 4.0, 200.0
    for i, size in enumerate(n):
        assert size == min(rows, left)
        left = left - size or 200.0
        rows = min(max(rows, needed[i]), 150)
    assert rows > 4
    assert history.account["traces"] == 1


def test_cabs() -> None:
    model = keras.Sequential([keras.Input((30,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.0625), "mse")
    random = np.random.default_rng(0)
    x, y = random.normal(size=(200, 30)).astype("float32"), random.normal(size=(200, 1)).astype("float32")
    history = fitcore.fit(model, x, y, batch_size=16, epochs=3, verbose=0, hooks=[InLoop(CABS(2, 40, decay=0.8))])
    noise, n = history.noise, history.noise.batch_size
    wanted = 0.0625 * faded(noise.trace, n, 0.8) / faded(history.steps["step/loss"], n, 0.8)
    rows, left = 16, 200.0
    for size, value in zip(n, wanted):
        assert size == min(rows, left)
        left = left - size or 200.0
        rows = np.clip(round(value), 2, 40)
    assert len(set(n)) > 2


def test_the_learning_rate_follows_the_noise() -> None:
    history = fit(sgd(), hooks=[InLoop(NoiseLearningRate(0.2, decay=0.9))], record=["step/learning_rate"])
    noise, n = history.noise, history.noise.batch_size
    trace, norm_sq = faded(noise.trace, n, 0.9), faded(noise.grad_norm_sq, n, 0.9)
    rate, rates = 0.05, []
    for t, g in zip(trace, norm_sq):
        rates.append(rate)
        rate = 0.2 / (1 + t / g / 10) if g > 0 else rate
    np.testing.assert_allclose(history.steps["step/learning_rate"], rates, rtol=1e-6)
    assert len(set(rates)) > 2


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Target(1.0, "up"),
        lambda: Divergence(1.0),
        lambda: Smoothed(Patience(1), 1.0),
        lambda: StopAfter(),
        lambda: StopAfter(steps=0),
        lambda: EarlyStopping("step/loss"),
        lambda: EarlyStopping(patience=0),
        lambda: NormTest(theta=0.0, most=10),
        lambda: CABS(20, 10),
        lambda: CABS(1, 10),
        lambda: LowSignal(0.5, decay=1.0),
        lambda: NoiseLearningRate(-1.0),
    ],
)
def test_what_makes_no_sense(wrong: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match="Received"):
        wrong()
