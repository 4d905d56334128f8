"""The engine below `fit`: explicit parts, loops of one's own, traces, and all state in one place."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from models import data, dataset, linear, noisy, of_unknown_size, state

import fitcore
from fitcore import Engine, Hook, RetraceError, View
from fitcore.checkpoint import plain


def body() -> keras.Model:
    """The layers of `models.noisy`, not compiled."""
    hidden = [layers.Dense(4, activation="relu"), layers.BatchNormalization(), layers.Dropout(0.3), layers.Dense(1)]
    return keras.Sequential([keras.Input((3,)), *hidden])


def explicit(model: Any, **parts: Any) -> Engine:
    optimizer = keras.optimizers.Adam(0.01)
    return Engine(model, **{"optimizer": optimizer, "loss": keras.losses.MeanSquaredError()} | parts)


def weights(model: Any) -> list[bytes]:
    """All that a model holds besides a loss tracker and metrics, which only a compiled one has."""
    return [variable.numpy().tobytes() for layer in model.layers for variable in layer.variables]


# --- parts ----------------------------------------------------------------------------------------------------------------


def test_explicit_parts_train_as_the_compiled_model() -> None:
    """The same bits, the same History, validation and evaluation included."""
    arguments: dict[str, Any] = {"batch_size": 4, "epochs": 3, "verbose": 0, "validation_data": data(10, seed=1)}
    compiled = noisy()
    expected = compiled.fit(*data(18), **arguments)

    keras.utils.clear_session()
    keras.utils.set_random_seed(1234)
    model = body()
    engine = explicit(model, metrics=[keras.metrics.MeanAbsoluteError(name="mae")])
    history = fitcore.fit(engine, *data(18), **arguments)
    assert history.history == expected.history
    assert history is model.history
    assert weights(model) == weights(compiled)
    optimizer: Any = engine.parts.optimizer
    ours, theirs = ([v.numpy().tobytes() for v in o.variables] for o in (optimizer, compiled.optimizer))
    assert ours == theirs
    assert fitcore.evaluate(engine, *data(10), verbose=0, return_dict=True) == compiled.evaluate(
        *data(10), verbose=0, return_dict=True
    )
    assert fitcore.evaluate(engine, *data(10), verbose=0) == compiled.evaluate(*data(10), verbose=0)


def test_sample_weights_reach_loss_and_metrics_of_explicit_parts() -> None:
    ones, twos = np.ones(20, "float32"), np.full(20, 2.0, "float32")
    losses = []
    for sample_weight in (ones, twos):
        keras.utils.set_random_seed(1)
        history = fitcore.fit(explicit(body()), *data(20), sample_weight=sample_weight, verbose=0)
        losses.append(history.history["loss"][0])
    assert losses[1] == pytest.approx(2 * losses[0])


def test_losses_of_the_model_are_added() -> None:
    """Regularization is the model's; the engine's loss doesn't know of it."""
    model = keras.Sequential([keras.Input((3,)), layers.Dense(1, kernel_regularizer=keras.regularizers.L2(0.5))])
    x, y = data(20)
    plain = float(np.mean((model(x).numpy() - y) ** 2))
    penalty = 0.5 * float(np.sum(model.layers[0].kernel.numpy() ** 2))
    history = fitcore.fit(explicit(model), x, y, batch_size=20, verbose=0)
    assert history.history["loss"][0] == pytest.approx(plain + penalty, rel=1e-5)


def test_a_loop_of_ones_own() -> None:
    """Stream and train, without fit: the same bits; chunks of any length, one trace."""
    x, y = data(18)
    fitted = linear(metrics=["mae"])
    history = fitcore.fit(fitted, x, y, batch_size=4, epochs=2, verbose=0)

    model = linear(metrics=["mae"])
    engine = Engine.of_compiled(model)
    stream = fitcore.Stream(fitcore.make_source(x, y, batch_size=4, shuffle=True))
    losses, logs = [], []
    for epoch in range(2):
        engine.reset_metrics()
        stream.begin_epoch()
        for steps in (1, 3, None):
            chunk = engine.train(stream, steps, index=len(losses), record=["step/loss"])
            losses.extend(chunk.records["step/loss"].tolist())
        assert (chunk.steps, stream.remaining(), len(losses)) == (1, 0, 5 * epoch + 5)
        assert stream.state().items() >= {"pass_index": epoch, "place": 5, "step": 5, "rows": None}.items()
        logs.append({name: float(value) for name, value in chunk.logs.items()})
        stream.end_epoch()
    assert [*state(model).values()] == [*state(fitted).values()]
    assert losses == history.steps["step/loss"].tolist()
    assert logs == [{name: values[epoch] for name, values in history.history.items()} for epoch in (0, 1)]
    assert engine.traces == 1

    source = fitcore.make_source(x, y, batch_size=4)
    engine.reset_metrics()
    stream = fitcore.Stream(source)
    stream.begin_epoch()
    first, rest = engine.evaluate_steps(stream, 2), engine.evaluate_steps(stream)
    assert (first.steps, rest.steps) == (2, 3)
    assert float(rest.logs["loss"]) == model.evaluate(x, y, batch_size=4, verbose=0)[0]


def test_a_chunk_ends_in_time() -> None:
    """The clock is looked at before each step but the first: with no time at all, one step runs."""
    stream = fitcore.Stream(fitcore.make_source(*data(20), batch_size=4))
    stream.begin_epoch()
    engine = Engine.of_compiled(linear())
    assert [engine.train(stream, seconds=0.0).steps for _ in range(2)] == [1, 1]
    assert engine.train(stream).steps == 3
    chunk = engine.train(stream, record=["step/loss"])
    assert (chunk.steps, chunk.logs, len(chunk.records["step/loss"])) == (0, {}, 0)


def test_a_schedule_is_part_of_the_loop() -> None:
    """The rate of each step, over two fits, from one trace; and it is the rate that is used."""

    def halving(step: tf.Tensor) -> tf.Tensor:
        return 0.5 ** tf.cast(step + 4, tf.float32)

    model = body()
    engine = explicit(model, optimizer=keras.optimizers.SGD(7.0), schedule=halving, metrics=[])
    rates = []
    for _ in range(2):
        history = fitcore.fit(engine, *data(20), batch_size=4, verbose=0, record=["step/learning_rate"])
        rates.extend(history.steps["step/learning_rate"].tolist())
    assert rates == [0.5 ** (step + 4) for step in range(10)]
    assert engine.traces == 1

    def still(step: tf.Tensor) -> tf.Tensor:
        return tf.where(step < 3, 0.01, 0.0)

    model, kernels = body(), []

    class Keeping(Hook):
        when = fitcore.EVERY_STEP

        def after_steps(self, view: View) -> None:
            kernels.append(model.layers[0].kernel.numpy().tobytes())

    engine = explicit(model, optimizer=keras.optimizers.SGD(7.0), schedule=still)
    fitcore.fit(engine, *data(20), batch_size=4, verbose=0, hooks=[Keeping()])
    assert len({*kernels[:3]}) == 3
    assert len({*kernels[2:]}) == 1


class Line(tf.Module):
    """No Keras in it."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = tf.Variable([[0.1], [0.2], [0.3]])
        self.bias = tf.Variable([0.0])

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        return x @ self.kernel + self.bias


class PlainSGD:
    """An optimizer with nothing but what the step asks for."""

    def __init__(self, learning_rate: float) -> None:
        self.learning_rate = learning_rate

    def build(self, variables: Sequence[Any]) -> None:
        self.variables: list[Any] = []

    def apply_gradients(self, grads_and_vars: Iterable[tuple[Any, Any]]) -> None:
        for gradient, variable in grads_and_vars:
            variable.assign_sub(self.learning_rate * gradient)


def test_neither_model_nor_optimizer_need_be_of_keras() -> None:
    """Against the same steps in NumPy; a loss that is a plain function."""
    model = Line()

    def squared(y: tf.Tensor, y_pred: tf.Tensor, sample_weight: Any = None) -> tf.Tensor:
        return tf.reduce_mean(tf.square(y_pred - y))

    engine = Engine(model, optimizer=PlainSGD(0.1), loss=squared)
    x, y = data(20)
    history = fitcore.fit(engine, x, y, batch_size=5, epochs=2, shuffle=False, verbose=0, validation_data=(x, y))
    kernel, bias = np.array([[0.1], [0.2], [0.3]]), np.zeros(1)
    losses = []
    for first in [0, 5, 10, 15] * 2:
        errors = x[first : first + 5] @ kernel + bias - y[first : first + 5]
        losses.append(np.mean(errors**2))
        kernel -= 0.1 * 2 * x[first : first + 5].T @ errors / 5
        bias -= 0.1 * 2 * errors.mean(axis=0)
    np.testing.assert_allclose(model.kernel.numpy(), kernel, rtol=1e-5)
    np.testing.assert_allclose(history.steps["step/loss"], losses, rtol=1e-5)
    assert history.history["val_loss"][-1] == pytest.approx(float(np.mean((x @ kernel + bias - y) ** 2)), rel=1e-5)
    assert history.account["traces"] == 2  # training and validation
    assert history.account["steps"] == 8


# --- traces ---------------------------------------------------------------------------------------------------------------


def test_repeated_fits_trace_once() -> None:
    """Other sizes of data and of batches included, as long as no shape that is compiled in changes."""
    model = linear()
    engine = Engine.of_compiled(model)
    for rows, batch_size, epochs in [(18, 4, 1), (18, 4, 3), (19, 4, 1), (18, 5, 1), (7, 3, 2)]:
        fitcore.fit(model, *data(rows), batch_size=batch_size, epochs=epochs, verbose=0, max_traces=1)
        assert (Engine.of_compiled(model), engine.traces) == (engine, 1)
    # Of whole batches the shapes are known. The trace for unknown ones serves them all the same, as Keras's does.
    first = fitcore.fit(model, *data(20), batch_size=4, verbose=0, validation_data=data(8))
    assert (first.account["traces"], engine.traces) == (1, 2)
    again = fitcore.fit(model, *data(40), batch_size=4, verbose=0, validation_data=data(12), validation_batch_size=4)
    assert again.account["traces"] == 0
    for _ in range(2):
        for source in (dataset(20), dataset(20).repeat(2)):
            fitcore.fit(model, source, verbose=0)
    assert engine.traces == 3
    assert fitcore.fit(model, *data(18), batch_size=4, verbose=0, record=()).account["traces"] == 1  # records less


@pytest.mark.parametrize("as_dataset", [False, True])
def test_a_new_model_is_traced_once(as_dataset: bool) -> None:
    traced: list[bool] = []

    class Noted(keras.layers.Layer):
        def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
            traced.append(training)
            return inputs

    model = keras.Sequential([keras.Input((3,)), Noted(), keras.layers.Dropout(0.5), keras.layers.Dense(1)])
    model.compile("adam", "mse", metrics=["mae"])
    traced.clear()
    arguments: Any = {"x": dataset()} if as_dataset else dict(zip("xy", data()))
    fitcore.fit(model, **arguments, verbose=0)
    assert traced.count(True) == 1


def test_recompiling_makes_other_programs() -> None:
    model = linear()
    fitcore.fit(model, *data(18), verbose=0)
    before = Engine.of_compiled(model).graphs()
    model.compile(keras.optimizers.SGD(0.5), "mae")
    assert len(before) == 1
    assert Engine.of_compiled(model).graphs() == []
    twin = linear()
    twin.set_weights(model.get_weights())
    twin.compile(keras.optimizers.SGD(0.5), "mae")
    assert fitcore.fit(model, *data(18), verbose=0).history == twin.fit(*data(18), verbose=0).history
    assert [*state(model).values()] == [*state(twin).values()]


def test_too_many_traces_are_an_error() -> None:
    model = linear()
    fitcore.fit(model, *data(18), batch_size=4, verbose=0, max_traces=1)
    before = state(model)
    with pytest.raises(RetraceError, match=r"max_traces=1\.\nTraced so far:\n.*float32.*\n.*\n.*float64"):
        fitcore.fit(model, dataset().map(lambda x, y: (tf.cast(x, "float64"), y)), verbose=0, max_traces=1)
    assert state(model) == before
    fitcore.fit(model, dataset(), verbose=0, max_traces=2)
    assert Engine.of_compiled(model).traces == 2


def test_the_model_forgets_its_engine_when_it_goes() -> None:
    """Nothing outside a model keeps its programs alive."""
    import gc
    import weakref

    model = linear()
    fitcore.fit(model, *data(18), verbose=0)
    engine = weakref.ref(Engine.of_compiled(model))
    assert engine() is not None
    del model
    keras.utils.clear_session()
    gc.collect()
    assert engine() is None


# --- state ----------------------------------------------------------------------------------------------------------------


def changed_variables(train: Callable[[], Any], *roots: Any) -> set[int]:
    """Ids of all variables reachable from these objects whose values `train` changed."""
    variables = {id(v): v for root in roots for v in reachable(root)}
    before = {key: variable.numpy() for key, variable in variables.items()}
    train()
    variables |= {id(v): v for root in roots for v in reachable(root)}
    return {key for key, v in variables.items() if key not in before or not np.array_equal(v.numpy(), before[key])}


def reachable(root: Any) -> list[tf.Variable]:
    """Every tf.Variable found by walking through attributes and containers, whatever the root calls its variables."""
    found: dict[int, tf.Variable] = {}
    seen: set[int] = set()
    todo = [root]
    while todo:
        item = todo.pop()
        if id(item) in seen or isinstance(item, (str, bytes, int, float, type, np.ndarray, tf.Tensor)):
            continue
        seen.add(id(item))
        if isinstance(item, tf.Variable):
            found[id(item)] = item
        elif isinstance(item, dict):
            todo.extend(item.values())
        elif isinstance(item, (list, tuple, set)):
            todo.extend(item)
        elif type(item).__module__.startswith(("keras.", "test_", "models")) and hasattr(item, "__dict__"):
            todo.extend(vars(item).values())
    return list(found.values())


def test_all_state_is_in_one_place() -> None:
    """Every variable that a fit changes is among `Run.variables()`; nothing is there twice. And the rest is plain values."""
    runs: list[Any] = []

    class Holding(Hook):
        when = fitcore.every(3)

        def __init__(self) -> None:
            self.count = 0

        def after_steps(self, view: View) -> None:
            self.count += 1

        def state(self) -> dict[str, Any]:
            return {"count": self.count}

    model = noisy(optimizer=keras.optimizers.Adam(0.01, use_ema=True, gradient_accumulation_steps=3))
    note = fitcore.loop.train

    def noting(run: Any, **arguments: Any) -> None:
        runs.append(run)
        note(run, **arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitcore.loop, "train", noting)
        model.optimizer.build(model.trainable_variables)
        arguments: dict[str, Any] = {"batch_size": 4, "epochs": 2, "verbose": 0, "hooks": [Holding()]}
        changed = changed_variables(lambda: fitcore.fit(model, *data(18), **arguments), model)
    run = runs[0]
    named = list(run.variables())
    known = {id(getattr(variable, "value", variable)) for _, variable in named}
    assert len(known) == len(named) == len({name for name, _ in named})
    assert changed <= known
    kinds = ("kernel", "moving_mean", "seed_generator_state", "iteration", "momentum", "average", "accumulator", "total")
    paths = " ".join(name for name, variable in named if id(getattr(variable, "value", variable)) in changed)
    assert [kind for kind in kinds if kind not in paths] == []

    history = fitcore.fit(model, *data(18), batch_size=4, verbose=0)
    assert history.first_step == 10  # ten steps of accumulation are three updates and a rest

    held = run.host_state()
    words, arrays = plain.split(held, "held")
    assert json.loads(json.dumps(words)) == words
    assert {name.rpartition("/")[2] for name in arrays} == {"loss", "mae"}  # the last step's logs, and the last epoch's
    assert held["hooks"] == [{"count": 3}]
    assert (held["epoch"], held["step"]) == (1, 10)
    assert held["data"].items() >= {"pass_index": 2, "place": 0, "step": 5, "rows": None}.items()


def test_a_fit_after_one_of_another_size() -> None:
    """The first fit's program, with its unknown batch dimension, serves whole batches in Keras too, or doesn't: bits decide."""
    for sizes in ((18, 20, 18), (20, 18, 20)):
        states = []
        for fit in (keras.Model.fit, fitcore.fit):
            keras.utils.clear_session()
            keras.utils.set_random_seed(1)
            model = noisy()
            histories = [fit(model, *data(rows), batch_size=4, epochs=2, verbose=0).history for rows in sizes]
            states.append((histories, state(model)))
        assert states[0] == states[1]


def test_datasets_after_arrays() -> None:
    """One model, one kind of input after the other, as in Keras."""
    states = []
    for fit in (keras.Model.fit, fitcore.fit):
        keras.utils.clear_session()
        keras.utils.set_random_seed(1)
        model = noisy()
        histories = [fit(model, *data(18), batch_size=4, verbose=0).history]
        for source in (dataset(18), of_unknown_size(dataset(20)), dataset(20)):
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore"
                )  # some versions of Keras remark that `shuffle` is ignored; and the end of the data
                histories.append(fit(model, source, verbose=0).history)
        states.append((histories, state(model)))
    assert states[0] == states[1]


def test_eager_steps_on_data_of_unknown_size() -> None:
    """The call that finds the end of the data runs no step."""
    found = []
    for fit in (keras.Model.fit, fitcore.fit):
        keras.utils.set_random_seed(1)
        model = linear(run_eagerly=True)
        rows = dataset().filter(lambda x, y: True)
        history = fit(model, rows, epochs=2, verbose=0)
        found.append((history.history, [variable.numpy().tobytes() for variable in model.variables]))
    assert found[0] == found[1]
    assert len(history.steps["step/loss"]) == 2 * len(list(rows))
