"""Optimizers: the fused form against Keras's own update, each against its definition in NumPy, and one of one's own."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from models import data, linear, state

import fitcore
from fitcore.optimizers import (
    AdaScaleSGD,
    Chain,
    NormTestSGD,
    add_decayed_weights,
    clip_by_global_norm,
    fused,
    scale_by_adam,
    scale_by_schedule,
    trace,
)

OPT = keras.optimizers
STEPS, BATCH = 1000, 4


# --- the fused form -------------------------------------------------------------------------------------------------------


def deep(optimizer: Any) -> keras.Model:
    """Kernels of more than 256 elements, of less, and enough biases to be joined; one weight with a sparse gradient."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(1)
    body = [layers.Embedding(7, 5), layers.Flatten(), *(layers.Dense(17, activation="relu") for _ in range(4)), layers.Dense(1)]
    model = keras.Sequential([keras.Input((3,), dtype="int32"), *body])
    model.compile(optimizer, "mse")
    return model


def tokens(rows: int = 120) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).integers(0, 7, (rows, 3))
    return x, (x[:, :1] - x[:, 1:2] ** 2).astype("float32")


@pytest.mark.parametrize(
    ("make", "forms"),
    [
        (lambda: OPT.AdamW(0.01, clipnorm=0.5, use_ema=True, ema_overwrite_frequency=7), {"keras", "kernel", "vector"}),
        (lambda: OPT.LossScaleOptimizer(OPT.Adam(0.01, amsgrad=True), 4.0), {"keras", "kernel", "vector"}),
        (lambda: OPT.SGD(OPT.schedules.ExponentialDecay(0.01, 5, 0.9), momentum=0.9, nesterov=True), set()),
        (lambda: OPT.SGD(0.01, momentum=0.9, global_clipnorm=0.5), set()),
        (lambda: OPT.RMSprop(0.01, momentum=0.5, centered=True, gradient_accumulation_steps=2), {"keras", "vector"}),
    ],
    ids=["adamw", "adam", "sgd", "clipped_sgd", "rmsprop"],
)
def test_the_fused_form_has_the_bits_of_keras(
    make: Callable[[], Any], forms: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All weights, all state; and the forms meant were used."""
    used: dict[str, int] = {}

    def counting(form: str, update: Any) -> Any:
        def run(optimizer: Any, gradients: Sequence[Any], *rest: Any) -> None:
            if not tf.executing_eagerly():  # the check on random numbers is eager
                used[form] = used.get(form, 0) + len(gradients)
            update(optimizer, gradients, *rest)

        return run

    monkeypatch.setattr(fused, "_UPDATES", {form: counting(form, update) for form, update in fused._UPDATES.items()})
    theirs, ours = deep(make()), deep(make())
    for fit in (theirs.fit, functools.partial(fitcore.fit, ours)):
        keras.utils.set_random_seed(2)
        fit(*tokens(), batch_size=8, epochs=2, verbose=0)
    assert list(state(ours).values()) == list(state(theirs).values())
    assert set(used) == forms
    assert "_backend_update_step" not in vars(getattr(ours.optimizer, "inner_optimizer", ours.optimizer))


def test_keras_updates_what_the_fused_form_would_not_do_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(OPT.Adam):
        pass

    replaced = OPT.Adam()
    vars(replaced)["update_step"] = lambda *_: None
    for optimizer, reason in (
        (Own(), "derived"),
        (OPT.Lion(), "derived"),
        (replaced, "object"),
        (Chain(learning_rate=1.0), "own"),
    ):
        assert reason in str(fused.why_not(optimizer))
    assert "XLA" in str(fused.why_not(OPT.Adam(), jit_compile=True))
    assert fused.why_not(OPT.Adam(), run_eagerly=True)
    assert fused.why_not(OPT.Adam(clipnorm=1.0, use_ema=True, gradient_accumulation_steps=2)) is None

    half, large, small = (
        tf.Variable(tf.zeros([n], dtype)) for n, dtype in ((999, "float16"), (999, "float32"), (9, "float32"))
    )
    assert [fused.form_of(OPT.Adam(), v, "exact") for v in (half, large, small)] == ["keras", "kernel", "vector"]
    assert fused.form_of(OPT.RMSprop(), large, "exact") == "keras"

    def rounds_otherwise(optimizer: Any, gradients: Any, weights: Any, learning_rate: Any) -> None:
        fused._UPDATES["keras"](optimizer, gradients, weights, learning_rate)
        weights[0].assign(tf.math.nextafter(weights[0], weights[0] + 1))

    monkeypatch.setattr(fused, "_UPDATES", fused._UPDATES | {"kernel": rounds_otherwise, "vector": rounds_otherwise})
    fused._same_bits.cache_clear()
    assert [fused.form_of(OPT.Adam(), v, "exact") for v in (large, small)] == ["keras", "keras"]
    fused._same_bits.cache_clear()


def test_fast_differs_by_little_and_is_a_program_of_its_own() -> None:
    def wide() -> keras.Model:
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((3,)), layers.Dense(12000, activation="tanh"), layers.Dense(1)])
        model.compile(OPT.Adam(0.01), "mse")
        return model

    exact, fast = wide(), wide()
    said = fitcore.explain(fast, *data(4), numerics="fast", plan="graph")
    assert "by TensorFlow's Adam kernels" in said
    assert 'no: numerics="fast"' in said
    x, y = data(4)
    for scale, traces in ((1.0, 1), (0.01, 0)):  # smaller gradients after larger ones: the second moments decrease
        for mine, its in zip((*fast.variables, *fast.optimizer.variables), (*exact.variables, *exact.optimizer.variables)):
            mine.assign(its)
        start = [w.copy() for w in fast.get_weights()]
        fitcore.fit(exact, scale * x, scale * y, batch_size=4, verbose=0)
        history = fitcore.fit(fast, scale * x, scale * y, batch_size=4, verbose=0, numerics="fast", plan="graph")
        assert history.account["traces"] == traces
        differ = False
        for first, a, b in zip(start, exact.get_weights(), fast.get_weights()):
            differ = differ or not np.array_equal(a, b)
            # The update by 1e-4 of its size, and what float32 loses in adding it.
            np.testing.assert_array_less(np.abs(a - b), 1e-4 * np.abs(a - first) + 2e-7 * np.abs(first) + 1e-12)
        assert differ
    assert fitcore.fit(fast, *data(4), batch_size=4, verbose=0).account["traces"] == 1  # exact again: another program
    assert fitcore.fit(fast, *data(4), batch_size=4, verbose=0, numerics="fast", plan="graph").account["traces"] == 0
    with pytest.raises(ValueError, match=r'`numerics` must be "exact" or "fast"\. Received: numerics=\'fused\''):
        fitcore.fit(fast, *data(4), numerics="fused")


# --- definitions, in float64 NumPy over 1,000 steps -----------------------------------------------------------------------


def problem(rows: int = STEPS * BATCH) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    x = random.normal(size=(rows, 3))
    return x, x @ [[1.0], [-2.0], [0.5]] + 0.5 * random.normal(size=(rows, 1))


def trained(optimizer: Any, **arguments: Any) -> tuple[np.ndarray, Any]:
    """The weights after 1,000 steps on batches of four, in order, of a linear model without bias; and the History."""
    keras.config.set_floatx("float64")
    model = keras.Sequential([keras.Input((3,)), layers.Dense(1, use_bias=False, kernel_initializer="zeros")])
    engine = fitcore.Engine(model, optimizer=optimizer, loss=keras.losses.MeanSquaredError())
    history = fitcore.fit(engine, *problem(), batch_size=BATCH, shuffle=False, verbose=0, **arguments)
    assert history.account["steps"] == STEPS
    assert engine.steps_done() == STEPS
    return model.get_weights()[0][:, 0], history


def gradients(w: np.ndarray, step: int) -> np.ndarray:
    """Each row's gradient in the batch of this step, [4, 3]."""
    x, y = (array[step * BATCH : (step + 1) * BATCH] for array in problem_once)
    return 2 * (x @ w[:, None] - y) * x


problem_once = problem()


def replay(update: Callable[[np.ndarray, np.ndarray, int], np.ndarray]) -> np.ndarray:
    w = np.zeros(3)
    for step in range(STEPS):
        w = update(w, gradients(w, step), step)
    return w


def adam(rate: float, epsilon: float = 1e-7, decay: float = 0.0, bias_in_epsilon: bool = True) -> Any:
    """Kingma & Ba 2015: the paper's algorithm 1, or, as Keras has it, the form at the end of its section 2."""
    m, v = np.zeros(3), np.zeros(3)

    def update(w: np.ndarray, rows: np.ndarray, step: int) -> np.ndarray:
        g, t = rows.mean(axis=0), step + 1
        m[:], v[:] = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        if bias_in_epsilon:
            return w * (1 - rate * decay) - rate * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (np.sqrt(v) + epsilon)
        return w - rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + epsilon)

    return update


def momentum(rate: float, mu: float, nesterov: bool) -> Any:
    m = np.zeros(3)

    def update(w: np.ndarray, rows: np.ndarray, step: int) -> np.ndarray:
        g = rows.mean(axis=0)
        m[:] = mu * m - rate * g
        return w + (mu * m - rate * g if nesterov else m)

    return update


def rmsprop(rate: float, rho: float) -> Any:
    v = np.zeros(3)

    def update(w: np.ndarray, rows: np.ndarray, step: int) -> np.ndarray:
        g = rows.mean(axis=0)
        v[:] = rho * v + (1 - rho) * g**2
        return w - rate * g / np.sqrt(v + 1e-7)

    return update


def chained() -> Any:
    """Clipping, momentum with Nesterov's step, decay added, and a factor that falls with the step."""
    t = np.zeros(3)

    def update(w: np.ndarray, rows: np.ndarray, step: int) -> np.ndarray:
        g = rows.mean(axis=0)
        g = g * min(1.0, 0.5 / np.linalg.norm(g))
        t[:] = 0.8 * t + g
        return w - 0.01 * (1 / (1 + step)) * (0.8 * t + g + 0.1 * w)

    return update


CHAIN = (
    clip_by_global_norm(0.5),
    trace(0.8, nesterov=True),
    add_decayed_weights(0.1),
    scale_by_schedule(lambda step: 1 / (1 + tf.cast(step, tf.float64))),
)


@pytest.mark.parametrize(
    ("make", "definition"),
    [
        (lambda: OPT.SGD(0.01), lambda: momentum(0.01, 0.0, False)),
        (lambda: OPT.SGD(0.005, momentum=0.8, nesterov=True), lambda: momentum(0.005, 0.8, True)),
        (lambda: OPT.AdamW(0.01, weight_decay=0.1), lambda: adam(0.01, decay=0.1)),
        (lambda: OPT.RMSprop(0.01), lambda: rmsprop(0.01, 0.9)),
        (lambda: Chain(*CHAIN, learning_rate=0.01), chained),
        (lambda: Chain(scale_by_adam(), learning_rate=0.01), lambda: adam(0.01, 1e-8, bias_in_epsilon=False)),
    ],
    ids=["sgd", "nesterov", "adamw", "rmsprop", "chain", "chain_adam"],
)
def test_follows_its_definition(make: Callable[[], Any], definition: Callable[[], Any]) -> None:
    keras.config.set_floatx("float64")
    np.testing.assert_allclose(trained(make())[0], replay(definition()), rtol=1e-6)


def test_adascale_follows_its_definition() -> None:
    """Gain, progress and weights; the schedule is read at the progress. What is measured is exact, float32 sums aside."""
    keras.config.set_floatx("float64")
    schedule = OPT.schedules.ExponentialDecay(0.02, 500, 0.5)
    optimizer = AdaScaleSGD(schedule, base_batch_size=1, momentum=0.5)
    record = {"gain": lambda seen: seen.optimizer.gain, "progress": lambda seen: seen.optimizer.progress}
    w, history = trained(optimizer, record=record)

    m, averages, gains, progress = np.zeros(3), np.zeros(2), [1.0], [0.0]

    def update(w: np.ndarray, rows: np.ndarray, step: int) -> np.ndarray:
        g = rows.mean(axis=0)
        trace = ((rows - g) ** 2).sum() / (BATCH - 1)
        share = max(1 / (step + 1), BATCH / 1000)
        averages[:] += share * (np.array([trace, g @ g - trace / BATCH]) - averages)
        variance, norm_sq = max(averages[0], 1e-6), max(averages[1], 0)
        gains.append((variance + norm_sq) / (variance / BATCH + norm_sq))
        m[:] = 0.5 * m + g
        w = w - gains[-1] * 0.02 * 0.5 ** (progress[-1] / 500) * m
        progress.append(progress[-1] + gains[-1])
        return w

    np.testing.assert_allclose(w, replay(update), rtol=1e-4)
    np.testing.assert_allclose(history.steps["gain"], gains[:-1], rtol=1e-4)
    np.testing.assert_allclose(history.steps["progress"], progress[:-1], rtol=1e-4)
    assert 1 < gains[-1] < BATCH


def test_the_norm_tested_sgd_follows_its_definition() -> None:
    """It updates at the same steps, with the same batches; some by the test, some because enough were gathered."""
    keras.config.set_floatx("float64")
    optimizer = NormTestSGD(0.01, theta=0.6, most_batches=6, momentum=0.5)
    w, history = trained(optimizer, record={"updates": lambda seen: tf.cast(seen.optimizer.updates, tf.float64)})

    m, gathered, sizes, updates = np.zeros(3), [], [], [0]

    def update(w: np.ndarray, rows: np.ndarray, step: int) -> np.ndarray:
        gathered.append(rows)
        every = np.concatenate(gathered)
        g = every.mean(axis=0)
        variance = ((every - g) ** 2).sum() / (len(every) - 1)
        ready = variance / len(every) <= 0.6**2 * (g @ g) or len(gathered) == 6
        updates.append(updates[-1] + ready)
        if ready:
            sizes.append(len(gathered))
            gathered.clear()
            m[:] = 0.5 * m - 0.01 * g
            w = w + m
        return w

    np.testing.assert_allclose(w, replay(update), rtol=1e-6)
    np.testing.assert_array_equal(history.steps["updates"], updates[:-1])
    assert set(sizes) >= {1, 3, 6}
    assert sum(size < 6 for size in sizes) > 20


def test_the_noise_given_to_the_optimizer_is_the_one_recorded() -> None:
    """By splitting too; with another configuration recorded at the same time, each its own. Saved and loaded like Keras's."""
    split = fitcore.GradientNoise(per_layer=False, estimator="split", splits=2)
    for recorded, same in ((split, True), (fitcore.GradientNoise(), False)):
        model = linear(optimizer=AdaScaleSGD(0.01, base_batch_size=4, smoothing=0.0, noise=split))
        history = fitcore.fit(model, *data(16), batch_size=8, verbose=0, noise=recorded)
        assert np.isclose(model.optimizer.trace, history.noise.trace[-1], rtol=1e-6) == same
    again = OPT.get(OPT.serialize(model.optimizer))
    assert (type(again), again.base_batch_size, again.smoothing) == (AdaScaleSGD, 4, 0.0)

    with pytest.raises(ValueError, match="AdaScaleSGD needs the gradient noise of each step"):
        model.fit(*data(16), verbose=0)
    eager = linear(optimizer=NormTestSGD(), run_eagerly=True)
    with pytest.raises(ValueError, match=r"NormTestSGD needs the gradient noise, .* run_eagerly=True"):
        fitcore.fit(eager, *data(16), verbose=0)
    for make in (
        lambda: AdaScaleSGD(base_batch_size=0),
        lambda: AdaScaleSGD(smoothing=1.0),
        lambda: AdaScaleSGD(gradient_accumulation_steps=2),
        lambda: NormTestSGD(theta=0.0),
        lambda: NormTestSGD(most_batches=0),
        lambda: NormTestSGD(noise=fitcore.GradientNoise(every=2)),
    ):
        with pytest.raises(ValueError, match="Received: "):
            make()


# --- one of one's own -----------------------------------------------------------------------------------------------------


class Momentum:
    """What `fitcore.step.Optimizer` asks for, and a learning rate that can be set."""

    def __init__(self) -> None:
        self.learning_rate = tf.Variable(0.1)
        self.builds = 0

    def build(self, variables: Sequence[Any]) -> None:
        self.builds += 1
        self.variables = [tf.Variable(tf.zeros_like(tf.convert_to_tensor(v))) for v in variables]

    def apply_gradients(self, grads_and_vars: Iterable[tuple[Any, Any]]) -> None:
        for m, (gradient, variable) in zip(self.variables, grads_and_vars):
            variable.assign_sub(self.learning_rate * m.assign(0.5 * m + gradient, read_value=True))


class Faster(fitcore.Hook):
    when = fitcore.EVERY_STEP

    def after_steps(self, view: Any) -> Any:
        return fitcore.Set("learning_rate", 0.5)


def test_an_optimizer_of_ones_own_is_built_once_and_keeps_its_state() -> None:
    """Over fits and over programs; schedules and hooks set its learning rate."""
    x, y = data(8)
    optimizer, model = Momentum(), linear()
    engine = fitcore.Engine(model, optimizer=optimizer, loss=keras.losses.MeanSquaredError(), schedule=None)
    w = model.get_weights()
    m = [np.zeros_like(part) for part in w]
    for rate, arguments in ((0.1, {}), (0.1, {"hooks": [Faster()]}), (0.5, {"record": ["step/gradient_norm"]})):
        errors = x @ w[0] + w[1] - y
        m = [0.5 * old + g for old, g in zip(m, (2 * x.T @ errors / 8, 2 * errors.mean(axis=0)))]
        w = [part - rate * step for part, step in zip(w, m)]
        fitcore.fit(engine, x, y, batch_size=8, verbose=0, **arguments)
    for ours, expected in zip((*model.get_weights(), *optimizer.variables), (*w, *m)):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)
    assert optimizer.builds == 1
    assert engine.traces == 2

    scheduled = fitcore.Engine(linear(), optimizer=Momentum(), loss=keras.losses.MeanSquaredError(), schedule=lambda step: 0.3)
    fitcore.fit(scheduled, x, y, verbose=0)
    assert float(scheduled.parts.optimizer.learning_rate) == np.float32(0.3)


def test_what_is_no_optimizer_is_refused_before_training() -> None:
    class Stateless(Momentum):
        def build(self, variables: Sequence[Any]) -> None:
            pass

    class Constant(Momentum):
        def __init__(self) -> None:
            super().__init__()
            self.learning_rate = 0.1

    class SetsRate(fitcore.Hook):
        def after_epoch(self, view: fitcore.View) -> Any:
            return fitcore.Set("learning_rate", 0.5)

    def engine(optimizer: Any) -> fitcore.Engine:
        return fitcore.Engine(linear(), optimizer=optimizer, loss=keras.losses.MeanSquaredError())

    with pytest.raises(TypeError, match=r"no method build and no apply_gradients\. Received: optimizer='adam' of type str"):
        engine("adam")
    with pytest.raises(TypeError, match="give an instance of this class"):
        engine(Momentum)
    with pytest.raises(
        TypeError, match=r"`variables` must be a list of all its state\. Received: Stateless with variables=None"
    ):
        fitcore.fit(engine(Stateless()), *data(8), verbose=0)
    with pytest.raises(TypeError, match=r"is a tf\.Variable or a property\. Received: Constant with learning_rate=0\.1"):
        fitcore.fit(engine(Constant()), *data(8), verbose=0, hooks=[SetsRate()])
    with pytest.raises(TypeError, match="`transformations` must be Transformations"):
        Chain(clip_by_global_norm, learning_rate=0.1)  # type: ignore[arg-type]
