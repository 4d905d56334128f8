"""Hooks: what they are shown, what they ask for and get, what is recorded; stop rules."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from models import data, linear, noisy, state

import fitcore
from fitcore import EVERY_STEP, Evaluate, Hook, NonFinite, Patience, Save, Set, Stop, StopOn, View, every


class At(Hook):
    """Answers with these requests once `step` steps are done; does nothing at epochs' ends."""

    when = EVERY_STEP

    def __init__(self, step: int, *requests: Any) -> None:
        self.step, self.requests = step, requests

    def after_steps(self, view: View) -> Any:
        return self.requests if view.step == self.step else None


class Watching(Hook):
    """Keeps each view, by the method that was shown it, and calls `action` in after_steps."""

    def __init__(self, when: Any = EVERY_STEP, record: Any = (), action: Callable[[View], Any] = lambda view: None) -> None:
        self.when, self.record, self.action = when, record, action
        self.views: list[tuple[str, View]] = []

    def begin(self, view: View) -> None:
        self.views.append(("begin", view))

    def after_steps(self, view: View) -> Any:
        self.views.append(("steps", view))
        return self.action(view)

    def after_epoch(self, view: View) -> None:
        self.views.append(("epoch", view))

    def end(self, view: View) -> None:
        self.views.append(("end", view))


def fit(model: Any, rows: int = 20, **arguments: Any) -> keras.callbacks.History:
    """Five steps an epoch, unless told otherwise."""
    return fitcore.fit(model, *data(rows), **{"batch_size": 4, "shuffle": False, "verbose": 0} | arguments)


# --- stop rules -----------------------------------------------------------------------------------------------------------


def replay(rule: fitcore.StopRule, values: list[float]) -> int | None:
    """How many values the rule saw before it said stop; its state goes through JSON after each."""
    now: Any = rule.start()
    for i, value in enumerate(values):
        now, stop = decide(rule, json.loads(json.dumps(now)), value)
        if stop:
            return i + 1
    return None


def decide(rule: fitcore.StopRule, now: dict[str, float], value: float) -> tuple[dict[str, float], bool]:
    wide = {name: tf.constant(held, tf.float64) for name, held in now.items()}
    new, stop = rule.decide(wide, tf.constant(value, tf.float64))
    return {name: float(held) for name, held in new.items()}, bool(stop)


def test_rules_are_pure() -> None:
    rule: Any
    for rule in (Patience(2), NonFinite()):
        now = rule.start()
        for value in (3.0, 4.0, 2.0):
            kept = json.dumps(now)
            first, second = decide(rule, now, value), decide(rule, now, value)
            assert json.dumps(now) == kept
            assert first == second
            now = first[0]


@pytest.mark.parametrize(
    ("rule", "values", "stops_after"),
    [
        (Patience(1), [3.0, 2.0, 1.0, 1.0], 4),
        (Patience(2), [3.0, 4.0, 2.0, 2.5, 2.0], 5),
        (Patience(2), [3.0, 4.0, 2.0, 2.5, 1.0, 1.5], None),
        (Patience(2, mode="max"), [1.0, 2.0, 1.5, 2.0], 4),
        (Patience(1, min_delta=0.5), [3.0, 2.4, 2.0], 3),
        (Patience(1, min_delta=0.5), [3.0, 2.4, 1.8, 1.2], None),
        (Patience(1, min_delta=0.5, mode="max"), [1.0, 1.4], 2),
        (Patience(3), [1.0, float("nan"), float("nan"), float("nan")], 4),
        (Patience(2), [float("nan"), 1.0, 0.5, 0.7], None),
        (Patience(1), [], None),
        (NonFinite(), [1.0, -1e300, float("nan")], 3),
        (NonFinite(), [float("inf")], 1),
        (NonFinite(), [1.0, 2.0], None),
    ],
)
def test_rules(rule: fitcore.StopRule, values: list[float], stops_after: int | None) -> None:
    assert replay(rule, values) == stops_after


@pytest.mark.parametrize("wrong", [lambda: Patience(0), lambda: Patience(2, mode="auto"), lambda: every(0), lambda: every(-3)])
def test_rules_and_times_that_make_no_sense(wrong: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match="Received"):
        wrong()


def test_stop_on_counts_on_over_repeated_fits() -> None:
    """Six one-epoch fits with one patience: unlike Keras's EarlyStopping, the hook remembers."""
    model, hook = linear(), StopOn(Patience(3, min_delta=1e9), "loss")
    stopped = [fit(model, hooks=[hook]).stop_reason for _ in range(5)]
    assert [reason is not None for reason in stopped] == [False, False, False, True, True]
    assert stopped[3].reason.startswith("loss: no improvement")
    assert stopped[3].by == "StopOn"

    restored = StopOn(Patience(3, min_delta=1e9), "loss")
    restored.load_state(json.loads(json.dumps(hook.state())))
    assert fit(model, hooks=[restored]).stop_reason is not None
    fresh = StopOn(Patience(3, min_delta=1e9), "loss")
    assert fit(model, hooks=[fresh]).stop_reason is None


def test_stop_on_a_recorded_scalar_stops_at_its_step() -> None:
    """x of row 9 is infinite: the loss of the third batch of four rows isn't finite."""
    x, y = data(20)
    x[9] = np.inf
    model = linear()
    with pytest.warns(UserWarning, match=r"The loss is (nan|inf) at step 2 \(epoch 0\)"):
        history = fitcore.fit(
            model, x, y, batch_size=4, shuffle=False, epochs=3, verbose=0, hooks=[StopOn(NonFinite(), "step/loss")]
        )
    assert (history.stop_reason.step, history.stop_reason.epoch, int(model.optimizer.iterations)) == (3, 0, 3)
    assert len(history.steps["step/loss"]) == 3
    assert np.isfinite(history.steps["step/loss"]).tolist() == [True, True, False]


def test_stop_on_something_that_is_not_logged() -> None:
    with pytest.raises(ValueError, match=r"monitor='val_loss'.*\['loss'\]"):
        fit(linear(), hooks=[StopOn(Patience(2))])


# --- requests -------------------------------------------------------------------------------------------------------------


def test_stop() -> None:
    """At the exact step; the epoch's validation and end still run. The first reason counts."""
    model = linear()
    hooks = [At(7, Stop("enough")), At(7, Stop("too late"))]
    history = fit(model, epochs=4, hooks=hooks, validation_data=data(4))
    reason = history.stop_reason
    assert (reason.by, reason.step, reason.epoch, reason.reason) == ("At", 7, 1, "enough")
    assert int(model.optimizer.iterations) == history.account["steps"] == 7
    assert {name: len(values) for name, values in history.history.items()} == {"loss": 2, "val_loss": 2}
    assert fit(model, hooks=hooks).stop_reason is None  # not kept from the last fit
    assert model.stop_training is False


def test_stop_of_a_keras_callback_is_told() -> None:
    history = fit(linear(), epochs=9, callbacks=[keras.callbacks.EarlyStopping("loss", patience=1, min_delta=1e9)])
    assert history.epoch == [0, 1]
    reason = history.stop_reason
    assert (reason.by, reason.step, reason.epoch) == ("callbacks", 10, 1)
    assert fit(linear(), epochs=2).stop_reason is None


def test_save_writes_the_weights_of_that_step(tmp_path: Path) -> None:
    hooks = [At(3, Save(tmp_path / "three.weights.h5")), At(4, Save(tmp_path / "four.keras"))]
    fit(noisy(), epochs=2, hooks=hooks)
    for name, steps in {"three.weights.h5": 3, "four.keras": 4}.items():
        keras.utils.set_random_seed(1234)
        keras.utils.clear_session()
        trained = noisy()
        fit(trained, hooks=[At(steps, Stop("compare"))])
        if name.endswith(".keras"):
            loaded = keras.models.load_model(tmp_path / name)
        else:
            loaded = noisy()
            loaded.load_weights(tmp_path / name)
        for a, b in zip(loaded.weights, trained.weights, strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_evaluate_in_mid_epoch() -> None:
    """What `model.evaluate` would give, and nothing of the training changes."""
    validation = data(10, seed=1)
    plain = noisy()
    expected = fit(plain, epochs=2, validation_data=validation).history

    keras.utils.set_random_seed(1234)
    keras.utils.clear_session()
    model, checked = noisy(), []

    class Checking(Hook):
        when = every(3)

        def after_steps(self, view: View) -> Any:
            assert dict(view.evaluation) == (checked[-1] if checked else {})
            kept = [variable.numpy() for metric in model.metrics for variable in metric.variables]
            values = model.evaluate(*validation, batch_size=4, verbose=0, return_dict=True)
            for variable, value in zip((v for metric in model.metrics for v in metric.variables), kept, strict=True):
                variable.assign(value)
            checked.append({f"val_{name}": value for name, value in values.items()})
            return Evaluate()

    history = fit(model, epochs=2, validation_data=validation, hooks=[Checking()])
    assert history.evaluations == [(3, checked[0]), (6, checked[1]), (9, checked[2])]
    assert len({values["val_loss"] for values in checked}) == 3
    assert history.history == expected
    assert state(model) == state(plain)


def test_evaluate_without_validation_data() -> None:
    with pytest.raises(ValueError, match="At asks to evaluate, but fit was given no `validation_data`"):
        fit(linear(), hooks=[At(2, Evaluate())])


def test_set_takes_effect_at_the_next_step() -> None:
    model = linear(optimizer=keras.optimizers.SGD(0.125))
    after: list[np.ndarray] = []
    watching = Watching(action=lambda view: after.append(model.get_weights()[0]))
    hooks: list[Hook] = [At(2, Set("learning_rate", 0.25)), At(4, Set("learning_rate", 0.0)), watching]
    history = fit(model, hooks=hooks, record=["step/learning_rate"])
    assert history.steps["step/learning_rate"].tolist() == [0.125, 0.125, 0.25, 0.25, 0.0]
    assert np.array_equal(after[3], after[4])
    assert not np.array_equal(after[2], after[3])


@pytest.mark.parametrize("answer", [Set("momentum", 0.5), "stop", [Stop("a"), 7]])
def test_answers_that_are_no_requests(answer: Any) -> None:
    with pytest.raises(ValueError, match=r"Watching returned .*, which is none of"):
        fit(linear(), hooks=[Watching(action=lambda view: answer)])


# --- what a hook is shown -------------------------------------------------------------------------------------------------


def test_the_view_cannot_be_written_to() -> None:
    hook = Watching(every(2))
    fit(linear(), hooks=[hook], validation_data=data(4))
    for _, view in hook.views:
        for mapping in (view.logs, view.records, view.evaluation):
            with pytest.raises(TypeError):
                mapping["loss"] = 0.0  # type: ignore[index]
        for values in view.records.values():
            assert not values.flags.writeable
        with pytest.raises(AttributeError):
            view.step = 3  # type: ignore[misc]


def test_views() -> None:
    """Each view's records begin where the last one ended: together they are the whole curve, once."""
    hooks = [Watching(every(2)), Watching(every(3)), Watching(fitcore.EPOCHS), Watching(fitcore.NEVER)]
    history = fit(linear(), hooks=hooks, epochs=2, validation_data=data(4))
    for hook in hooks:
        pieces = [(view.first_step, view.records.get("step/loss", np.empty(0)), view.step) for _, view in hook.views]
        for first, values, step in pieces:
            assert first + len(values) == step
        np.testing.assert_array_equal(np.concatenate([values for _, values, _ in pieces]), history.steps["step/loss"])
    seen = [(method, view.epoch, view.epoch_step, view.steps_per_epoch) for method, view in hooks[0].views]
    assert seen == [
        *[("begin", 0, 0, 5), ("steps", 0, 2, 5), ("steps", 0, 4, 5), ("epoch", 0, 5, 5)],
        *[("steps", 1, 1, 5), ("steps", 1, 3, 5), ("steps", 1, 5, 5), ("epoch", 1, 5, 5), ("end", 1, 5, 5)],
    ]
    epochs = [view for method, view in hooks[0].views if method == "epoch"]
    assert [dict(view.logs) for view in epochs] == [
        {name: values[epoch] for name, values in history.history.items()} for epoch in (0, 1)
    ]
    assert list(epochs[0].logs) == ["loss", "val_loss"]


def test_a_further_fit_goes_on_counting() -> None:
    model, hook = linear(), Watching(every(2))
    first, second = fit(model, hooks=[hook]), fit(model, hooks=[hook])
    assert (first.first_step, second.first_step) == (0, 5)
    assert len(second.steps["step/loss"]) == 5
    shown = [(view.step, view.first_step) for method, view in hook.views if method == "steps"]
    assert shown == [(2, 0), (4, 2), (7, 5), (9, 7)]  # `every` counts each run's own steps


# --- recording ------------------------------------------------------------------------------------------------------------


def test_recording_changes_nothing() -> None:
    """With nothing, everything or a recorder of one's own: the same bits. And one entry per optimizer step."""
    records: dict[str, Any] = {
        "off": (),
        "all": ["step/loss", "step/learning_rate", "step/gradient_norm", "loss", "mae"],
        "own": {"largest": lambda seen: tf.reduce_max(tf.abs(seen.y_pred))},
    }
    states, steps = {}, {}
    for name, record in records.items():
        keras.utils.set_random_seed(1234)
        keras.utils.clear_session()
        model = noisy()
        history = fit(model, 18, epochs=2, record=record)
        states[name], steps[name] = (state(model), history.history), history.steps
    assert states["off"] == states["all"] == states["own"]
    assert steps["off"] == {}
    assert list(steps["all"]) == records["all"]
    assert list(steps["own"]) == ["largest"]
    for values in (*steps["all"].values(), *steps["own"].values()):
        assert (values.shape, values.dtype) == ((10,), np.float64)
        assert not values.flags.writeable
    # The running means restart in each epoch; each is the mean of the batches' own losses, weighted by rows.
    rows = np.array([4, 4, 4, 4, 2])
    for epoch in (0, 1):
        own = steps["all"]["step/loss"][5 * epoch : 5 * epoch + 5]
        running = steps["all"]["loss"][5 * epoch : 5 * epoch + 5]
        np.testing.assert_allclose(running, np.cumsum(own * rows) / np.cumsum(rows), rtol=1e-6)
        assert running[-1] == states["off"][1]["loss"][epoch]


def test_each_step_has_its_own_loss_and_gradient_norm() -> None:
    """Against the same steps written by hand: loss with the L2 term in it, the norm before clipping."""

    def build() -> keras.Model:
        model = keras.Sequential([keras.Input((3,)), layers.Dense(4, "tanh", kernel_regularizer="l2"), layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.1, global_clipnorm=0.01), "mse")
        return model

    keras.utils.set_random_seed(1)
    history = fit(build(), 18, epochs=2, record=["step/loss", "step/gradient_norm"])
    keras.utils.set_random_seed(1)
    model, losses, norms = build(), [], []
    x, y = data(18)
    for first in [*range(0, 18, 4)] * 2:
        with tf.GradientTape() as tape:
            errors = model(x[first : first + 4], training=True) - y[first : first + 4]
            loss = tf.reduce_mean(tf.square(errors)) + tf.add_n(model.losses)
        gradients = tape.gradient(loss, model.trainable_variables)
        losses.append(float(loss))
        norms.append(np.sqrt(sum(np.sum(np.square(np.asarray(g, np.float64))) for g in gradients)))
        model.optimizer.apply(gradients, model.trainable_variables)
    np.testing.assert_allclose(history.steps["step/loss"], losses, rtol=1e-5)
    np.testing.assert_allclose(history.steps["step/gradient_norm"], norms, rtol=1e-5)


def test_gradient_norm_of_sparse_gradients_and_scaled_losses() -> None:
    """An embedding's rows that a batch meets twice are added up first; a loss scale is undone."""

    def build(optimizer: keras.optimizers.Optimizer) -> keras.Model:
        body = [layers.Embedding(5, 2), layers.Flatten(), layers.Dense(1)]
        model = keras.Sequential([keras.Input((3,), dtype="int32"), *body])
        model.compile(optimizer, "mse")
        return model

    x, y = np.array([[0, 1, 1], [1, 2, 0]]), np.ones((2, 1), "float32")
    recorded = []
    for scaled in (False, True):
        keras.utils.set_random_seed(1)
        optimizer = keras.optimizers.SGD(0.1)
        model = build(keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=1024.0) if scaled else optimizer)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x) - y))
        gradients = [tf.convert_to_tensor(g) for g in tape.gradient(loss, model.trainable_variables)]
        history = fitcore.fit(model, x, y, shuffle=False, verbose=0, record=["step/gradient_norm"])
        recorded.append(history.steps["step/gradient_norm"][0])
        np.testing.assert_allclose(recorded[-1], tf.linalg.global_norm(gradients), rtol=1e-6)
    assert recorded[0] == recorded[1]


def test_hooks_and_fit_share_one_curve() -> None:
    """What a hook records, others and the History see too; a mapping's own name wins over the built-in one."""
    hook = Watching(fitcore.EPOCHS, record={"x/mean": lambda seen: tf.reduce_mean(seen.x)})
    history = fit(linear(), hooks=[hook, StopOn(NonFinite(), "step/gradient_norm")], record=["loss"])
    assert sorted(history.steps) == ["loss", "step/gradient_norm", "x/mean"]
    means = [batch.mean() for batch in np.split(data(20)[0], 5)]
    np.testing.assert_allclose(history.steps["x/mean"], means, rtol=1e-5)


def test_a_recorder_is_shown_the_step() -> None:
    steps: dict[str, Callable[[fitcore.Observation], Any]] = {
        "step": lambda seen: seen.step,
        "first weight": lambda seen: seen.variables[0][0, 0],
        "done": lambda seen: seen.optimizer.iterations,
    }
    model = linear()
    weights: list[float] = [float(model.get_weights()[0][0, 0])]
    hook = Watching(action=lambda view: weights.append(float(model.get_weights()[0][0, 0])))
    fit(model, hooks=[hook], record=steps)
    history = fit(model, hooks=[hook], record=steps)
    assert history.steps["step"].tolist() == history.steps["done"].tolist() == [5, 6, 7, 8, 9]
    assert history.steps["first weight"].tolist() == weights[5:10]  # before each update


def test_record_of_something_unknown() -> None:
    with pytest.raises(ValueError, match=r"`record` names \['step/los'\]"):
        fit(linear(), record=["step/los"])


# --- leaving early --------------------------------------------------------------------------------------------------------


class Interrupting(Watching):
    def __init__(self, step: int, error: type[BaseException]) -> None:
        super().__init__()
        self.step, self.error = step, error

    def after_steps(self, view: View) -> Any:
        super().after_steps(view)
        if view.step == self.step:
            raise self.error("stop here")


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_an_interrupt_leaves_what_there_is(error: type[BaseException]) -> None:
    """Ctrl-C in the second epoch: History holds the first, the curve holds every step, and each hook has ended."""
    model, hooks = linear(), [Watching(), Interrupting(8, error), Watching()]
    with pytest.raises(error):
        fit(model, epochs=4, hooks=hooks)
    history = model.history
    assert len(history.history["loss"]) == 1
    assert len(history.steps["step/loss"]) == history.account["steps"] == 8
    assert history.stop_reason is None
    assert [hook.views[-1][0] for hook in hooks] == ["end"] * 3
    assert [hook.views[-1][1].step for hook in hooks] == [8] * 3
    assert len(fit(model).history["loss"]) == 1  # and the model can go on


def test_a_hook_that_fails_at_the_end_does_not_keep_others_from_ending() -> None:
    class Failing(Hook):
        def end(self, view: View) -> None:
            raise OSError("disk full")

    hook = Watching()
    with pytest.raises(OSError, match="disk full"):
        fit(linear(), hooks=[Failing(), hook])
    assert hook.views[-1][0] == "end"


def test_a_hook_that_fails_at_the_beginning() -> None:
    class Failing(Hook):
        def begin(self, view: View) -> None:
            raise OSError("no such place")

    hook = Watching()
    with pytest.raises(OSError, match="no such place"):
        fit(linear(), hooks=[hook, Failing()])
    assert [method for method, _ in hook.views] == ["begin", "end"]


def test_one_warning_for_losses_that_are_not_finite() -> None:
    x, y = data(20)
    x[9:] = np.nan
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitcore.fit(linear(), x, y, batch_size=4, shuffle=False, epochs=3, verbose=0)
    messages = [str(warning.message) for warning in caught if "The loss is" in str(warning.message)]
    assert len(messages) == 1
    assert "at step 2 (epoch 0)" in messages[0]


def test_what_is_recorded_changes_no_bit() -> None:
    """The gradient of BatchNormalization's gamma is a product, which TensorFlow rearranges if nobody else reads it."""

    def trained(**arguments: Any) -> list[bytes]:
        keras.utils.set_random_seed(0)
        model = noisy(optimizer=keras.optimizers.SGD(0.1, momentum=0.9))
        fit(model, rows=264, batch_size=32, epochs=3, **arguments)
        return list(state(model).values())

    plain = trained()
    assert trained(record=["step/gradient_norm"]) == plain
    assert trained(noise=True) == plain
