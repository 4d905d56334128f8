"""numerics="fast": blocks of steps as XLA programs, which form is the faster one, and how far from exact that is."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from cuts import Cut, Cutting
from keras import layers
from models import data, dataset, noisy

import fitcore
from fitcore import blocks, plans
from fitcore.noise import recurrent as recurrent_noise

OPT = keras.optimizers


def sequential(body: list[Any], shape: tuple[int, ...], optimizer: Any, loss: str = "mse", **of_input: Any) -> keras.Model:
    model = keras.Sequential([keras.Input(shape, **of_input), *body])
    model.compile(optimizer, loss, metrics=["mae"])
    return model


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype("float32")


WORDS = np.random.default_rng(0).integers(0, 7, (22, 5))


def of_words(optimizer: Any) -> keras.Model:
    body = [layers.Embedding(7, 4), layers.GlobalAveragePooling1D(), layers.Dense(1)]
    return sequential(body, (5,), optimizer, dtype="int32")


MODELS: dict[str, tuple[Callable[[], keras.Model], np.ndarray]] = {
    "dropout and normalization": (noisy, numbers(22, 3)),
    "noise, momentum, clipping": (
        lambda: sequential(
            [
                layers.GaussianNoise(0.1),
                layers.Dense(4, "tanh"),
                layers.SpatialDropout1D(0.3),
                layers.Flatten(),
                layers.Dense(1),
            ],
            (3, 2),
            OPT.SGD(0.01, momentum=0.9, clipnorm=0.1),
        ),
        numbers(22, 3, 2),
    ),
    "recurrent": (
        lambda: sequential([layers.LSTM(4, dropout=0.2), layers.Dense(1)], (5, 2), OPT.RMSprop(0.01)),
        numbers(22, 5, 2),
    ),
    "recurrent, going on from batch to batch": (
        lambda: sequential([layers.LSTM(4, stateful=True), layers.Dense(1)], (5, 2), OPT.Adam(0.01), batch_size=4),
        numbers(20, 5, 2),
    ),
    "embedding, averaged": (
        lambda: of_words(OPT.AdamW(0.01, use_ema=True, gradient_accumulation_steps=2)),
        WORDS,
    ),
    "embedding, words twice in a batch": (
        lambda: of_words(OPT.Adam(0.01, amsgrad=True, clipnorm=0.1)),
        WORDS,
    ),
}


def variables(model: keras.Model) -> list[np.ndarray]:
    return [variable.numpy() for variable in (*model.variables, *model.optimizer.variables)]


def fitted(make: Callable[[], keras.Model], x: Any, *, plan: str | None, **arguments: Any) -> tuple[keras.Model, Any]:
    """A model trained by a plan; None: exactly."""
    keras.utils.set_random_seed(7)
    model = make()
    return model, trained(model, x, plan, **arguments)


def trained(model: keras.Model, x: Any, plan: str | None, **arguments: Any) -> Any:
    how = {} if plan is None else {"numerics": "fast", "plan": plan}
    y = np.asarray(x, "float32").reshape(len(x), -1)[:, :1]
    return fitcore.fit(model, x, y, **{"batch_size": 4, "verbose": 0} | arguments, **how)


@pytest.mark.parametrize("name", MODELS)
def test_xla_stays_by_exact(name: str) -> None:
    make, x = MODELS[name]
    found = []
    for plan in (None, "xla"):
        model, _ = fitted(make, x, plan=None, epochs=0)
        start = model.get_weights()
        trained(model, x, plan, steps_per_epoch=2 if "averaged" in name else 1)
        update = np.concatenate([(a - b).ravel() for a, b in zip(model.get_weights(), start)])
        history = trained(model, x, plan, epochs=2, validation_data=(x, x[:, 0]))  # the last batch is smaller
        found.append((update, variables(model), history))
    (exact, values, ours), (fast, values_fast, theirs) = found
    assert np.linalg.norm(exact) > 0
    assert np.linalg.norm(fast - exact) < 1e-4 * np.linalg.norm(exact)
    assert ours.history.keys() == theirs.history.keys()
    for a, b in zip(values, values_fast):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
        if a.dtype.kind == "i":  # steps counted, random numbers drawn
            np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(ours.steps["step/loss"], theirs.steps["step/loss"], rtol=1e-4)
    assert theirs.account["steps"] == ours.account["steps"] == 2 * math.ceil(len(x) / 4)


def test_hooks_rules_schedules_and_noise_work_in_it() -> None:
    class Every(fitcore.Hook):
        when = fitcore.every(3)
        record = ("step/loss", "step/learning_rate", "step/gradient_norm")

        def __init__(self) -> None:
            self.seen: list[tuple[int, float]] = []

        def after_steps(self, view: fitcore.View) -> None:
            self.seen.append((view.step, float(view.records["step/loss"][-1])))

    found = []
    for plan in (None, "xla"):
        hook = Every()
        model, history = fitted(
            noisy,
            numbers(24, 3),
            plan=plan,
            epochs=4,
            hooks=[hook, fitcore.StopOn(fitcore.Target(1e9), "step/gradient_norm"), fitcore.StopAfter(examples=70)],
            schedule=lambda step, base: base / (1.0 + tf.cast(step, tf.float32)),
            class_weight={0: 1.0},
            noise=True,
        )
        found.append((hook.seen, history.steps, variables(model), history.stop_reason))
    (seen, steps, _values, stop), (seen_fast, steps_fast, _values_fast, stop_fast) = found
    assert [step for step, _ in seen] == [step for step, _ in seen_fast]
    np.testing.assert_allclose([loss for _, loss in seen], [loss for _, loss in seen_fast], rtol=1e-3)
    assert steps.keys() == steps_fast.keys()
    assert "noise/scale" in steps
    for name in steps:
        np.testing.assert_allclose(steps[name], steps_fast[name], rtol=0.02, atol=1e-5, err_msg=name)
    assert stop == stop_fast


def recurrent(*body: keras.layers.Layer) -> Callable[[], keras.Model]:
    def make() -> keras.Model:
        copies = [layer.from_config(layer.get_config()) for layer in body]
        return sequential([*copies, layers.Dense(1)], (5, 2), OPT.Adam(0.01, clipnorm=1.0))

    return make


@pytest.mark.parametrize(
    "make",
    [
        recurrent(layers.LSTM(4, dropout=0.2)),
        recurrent(layers.Bidirectional(layers.LSTM(3, return_sequences=True)), layers.LSTM(2, "relu", use_bias=False)),
        recurrent(layers.Dense(1, name="narrow"), layers.LSTM(3, return_sequences=True, go_backwards=True), layers.LSTM(6)),
    ],
)
def test_the_noise_of_an_lstm_takes_no_second_run(make: Callable[[], keras.Model], monkeypatch: pytest.MonkeyPatch) -> None:
    _, exact = fitted(make, numbers(24, 5, 2), plan=None, noise=True)

    def run_once_more(*arguments: Any, **more: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr(recurrent_noise, "scan", run_once_more)
    _, fast = fitted(make, numbers(24, 5, 2), plan="xla", noise=True)
    assert {how for path, how in fast.noise.how.items() if "lstm" in path} == {"LSTM: exact"}
    assert "noise/scale" in exact.steps
    for name, values in exact.steps.items():
        np.testing.assert_allclose(fast.steps[name], values, rtol=1e-3, atol=1e-6, err_msg=name)


def test_a_rule_stops_at_its_step_and_no_random_number_is_lost() -> None:
    x = numbers(64, 3)
    hooks = lambda: [fitcore.StopOn(fitcore.Smoothed(fitcore.Patience(3), 0.5), "step/loss")]  # noqa: E731
    (exact, a), (fast, b) = (fitted(noisy, x, plan=plan, epochs=20, hooks=hooks()) for plan in (None, "xla"))
    assert a.stop_reason is not None
    assert a.account["steps"] == b.account["steps"] < 20 * 16
    generators = [[v.numpy().tolist() for v in m.variables if "seed" in v.path] for m in (exact, fast)]
    assert generators[0] == generators[1]
    assert generators[0][0][1] == a.account["steps"]


def test_a_block_ends_with_the_curve_of_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 3)
    _, ours = fitted(noisy, numbers(64, 3), plan=None)
    _, theirs = fitted(noisy, numbers(64, 3), plan="xla")
    np.testing.assert_allclose(ours.steps["step/loss"], theirs.steps["step/loss"], rtol=0.01)


# --- which form -----------------------------------------------------------------------------------------------------------


def test_measuring_changes_nothing_and_is_done_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FITCORE_CACHE", str(tmp_path / "plans.json"))
    x = numbers(44, 3)
    said = fitcore.explain(noisy(), *data(44), batch_size=4, numerics="fast")
    assert "not measured yet" in said
    chosen, first = fitted(noisy, x, plan="auto")
    random = np.random.get_state()[1].tolist(), tf.random.uniform([]).numpy()
    (key,) = plans._all()
    found = plans.remembered(key)
    assert found is not None
    assert found.xla is not None
    assert found.graph > 0
    told, _ = fitted(noisy, x, plan=found.plan)
    assert random == (np.random.get_state()[1].tolist(), tf.random.uniform([]).numpy())
    for a, b in zip(variables(chosen), variables(told)):
        np.testing.assert_array_equal(a, b)
    _, again = fitted(noisy, x, plan="auto")
    assert (first.account["traces"], again.account["traces"]) == (2, 1)
    keras.utils.set_random_seed(7)
    assert f"{found.plan}; measured" in fitcore.explain(noisy(), *data(44), batch_size=4, numerics="fast")


@pytest.mark.parametrize(("undisturbed", "calls"), [(0.5, 3), (0.9, 9)])
def test_forms_that_take_about_as_long_are_measured_longer(
    undisturbed: float, calls: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {False: 0, True: 0}

    def seconds(run: Any, record: Any, steps: int) -> float:
        made[by_xla := run.engine.by_xla] += 1
        return undisturbed if by_xla and (undisturbed == 0.5 or made[True] > 6) else 1.0 + 0.2 * by_xla

    monkeypatch.setenv("FITCORE_CACHE", str(tmp_path / "plans.json"))
    monkeypatch.setattr(plans, "_seconds", seconds)
    fitted(noisy, numbers(44, 3), plan="auto")
    (key,) = plans._all()
    assert plans.remembered(key) == plans.Measured(1.0, undisturbed)
    assert made == {False: 2 + calls, True: 2 + calls}


class Shuffling(layers.Layer):
    def call(self, x: Any, training: bool = False) -> Any:
        return keras.random.shuffle(x, seed=3) if training else x


class Drawing(layers.Layer):
    def call(self, x: Any, training: bool = False) -> Any:
        return x + tf.random.uniform(tf.shape(x)) if training else x


class Calling(layers.Layer):
    def call(self, x: Any) -> Any:
        return tf.ensure_shape(tf.numpy_function(lambda each: each, [x], tf.float32), x.shape)


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (Shuffling, "what keras.random.shuffle draws depends on what the step computes"),
        (Drawing, "XLA does RandomUniform otherwise than TensorFlow"),
        (Calling, "what Python functions keep"),
    ],
)
def test_what_xla_would_do_otherwise_is_left_to_the_graph(layer: type, why: str) -> None:
    def make() -> keras.Model:
        return sequential([layer(), layers.Dense(1)], (3,), OPT.Adam(0.01))

    fitted(make, numbers(20, 3), plan="auto")
    assert any(why in found["why"] for found in plans._all().values())
    if layer is not Calling:  # XLA finds it out itself, in compiling
        with pytest.raises(ValueError, match=f"`plan`: XLA can't be used for this fit: .*{why}"):
            fitted(make, numbers(20, 3), plan="xla")


class Scaled(layers.Layer):
    """Draws, and has a weight for whose use there is no rule."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = layers.Dropout(0.3)

    def build(self, shape: Any) -> None:
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones")

    def call(self, x: Any) -> Any:
        return self.dropout(x) * self.scale


def test_noise_of_a_layer_that_draws_and_has_no_rule() -> None:
    """Calling it again to measure would draw again: it is split, as in the exact tier."""
    x, hows = numbers(8, 3), []
    for how in ({}, {"numerics": "fast"}):
        model = sequential([Scaled(), layers.Dense(1)], (3,), OPT.SGD(0.01))
        history = fitcore.fit(model, x, x[:, :1], batch_size=4, verbose=0, noise=True, **how)
        hows.append(list(history.noise.how.values()))
    assert hows[1] == hows[0]


def test_what_has_no_fixed_shape_is_left_to_the_graph() -> None:
    assert "plan        graph; only arrays in memory" in fitcore.explain(noisy(), dataset(), numerics="fast")
    fitcore.fit(noisy(), dataset(), numerics="fast", verbose=0)
    with pytest.raises(ValueError, match="`plan`: XLA can't be used for this fit: only arrays in memory"):
        fitcore.fit(noisy(), dataset(), numerics="fast", plan="xla", verbose=0)


def test_wrong_plans() -> None:
    with pytest.raises(ValueError, match=r"`plan` must be one of .*Received: plan='jax'"):
        fitcore.fit(noisy(), *data(4), numerics="fast", plan="jax")
    with pytest.raises(ValueError, match=r'`plan` is of numerics="fast"\. Received'):
        fitcore.fit(noisy(), *data(4), plan="xla")


def test_a_resumed_fit_keeps_its_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(folder: str, cut: int | None, fastest: str) -> list[np.ndarray]:
        measured = plans.Measured(1.0, 2.0 if fastest == "graph" else 0.5)
        monkeypatch.setattr(plans, "_measure", lambda run, record: measured)
        monkeypatch.setenv("FITCORE_CACHE", str(tmp_path / f"{fastest}.json"))
        checkpoint = fitcore.Checkpoint(tmp_path / folder, every="2 steps")
        model = None
        with contextlib.suppress(Cut):
            model, _ = fitted(noisy, numbers(44, 3), plan="auto", epochs=3, hooks=[Cutting(cut)], checkpoint=checkpoint)
        return [] if model is None else variables(model)

    want = fit("undisturbed", None, "xla")
    fit("cut", 15, "xla")
    for a, b in zip(want, fit("cut", None, "graph")):  # another machine would choose otherwise
        np.testing.assert_array_equal(a, b)
