"""`check` compares a model's training with Keras's on this machine, says where a difference begins, and leaves no trace."""

from __future__ import annotations

import contextlib
import queue
import random
import runpy
import sys
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from models import data, dataset, linear, noisy, of_unknown_size, state
from tensorflow.python.eager import context

import fitcore
from fitcore import __main__ as command
from fitcore import keras_private, onednn, parts


def everything(*objects: Any) -> list[Any]:
    """State of the process's random generators, and these objects."""
    generators = [random.getstate(), np.random.get_state()[1].tolist(), tf.random.uniform([3]).numpy().tolist()]
    return [*generators, keras.random.uniform([2]).numpy().tolist(), layers.Dense(1).name, *objects]


def same_afterwards(make: Callable[[], Any], use: Callable[[Any], Any], see: Callable[[Any], Any]) -> tuple[Any, Any]:
    """What is seen of two equal things, one that nobody used and one that was used; generators of the process too."""
    found = []
    for used in (False, True):
        keras.utils.clear_session()
        keras.utils.set_random_seed(5)
        thing = make()
        if used:
            use(thing)
        found.append(everything(see(thing)))
    return found[0], found[1]


def trained(model: keras.Model, x: Any = None, y: Any = None, **arguments: Any) -> list[Any]:
    """What Keras's fit makes of a model from where it is."""
    history = model.fit(*(data() if x is None else (x, y)), verbose=0, shuffle=True, **{"batch_size": 8} | arguments)
    return [state(model), history.history]


# --- models whose state lies in other places -----------------------------------------------------------------------------


class Counting(keras.Model):
    """Not built yet, with a plain variable, a list, an array and generators of its own; a class counts its calls."""

    calls = 0

    def __init__(self) -> None:
        super().__init__()
        self.dense = layers.Dense(4, activation="tanh")
        self.twice = layers.Dense(4)
        self.last = layers.Dense(1)
        self.steps = tf.Variable(0, trainable=False)
        self.seen: list[str] = []
        self.table = np.zeros(3)
        self.draws = [np.random.default_rng(4), random.Random(3), np.random.RandomState(2)]

    @tf.function
    def body(self, x: Any) -> Any:
        return self.twice(self.twice(self.dense(x)))

    def call(self, x: Any) -> Any:
        Counting.calls += 1
        self.seen.append("call")
        self.table[0] += 1
        self.draws[0].random()
        self.draws[1].random()
        self.draws[2].random()
        self.steps.assign_add(1)
        return self.last(self.body(x))

    def account(self) -> list[Any]:
        draws = [self.draws[0].random(), self.draws[1].random(), self.draws[2].random()]
        return [Counting.calls, list(self.seen), self.table.tolist(), draws, self.steps.numpy(), self.dense.built, self.built]


second = None  # an optimizer that a train_step reads as a global


class TwoOptimizers(keras.Model):
    """As a GAN: a train_step of its own, one optimizer in an attribute, another in a global."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = layers.Dense(3, activation="relu"), layers.Dense(1)
        self.first = keras.optimizers.Adam(0.01)

    def call(self, x: Any) -> Any:
        return self.other(self.one(x))

    def train_step(self, batch: Any) -> dict[str, Any]:
        x, y = batch
        with tf.GradientTape() as tape:
            loss = keras.ops.mean(keras.ops.square(self(x, training=True) - y))
        ours, theirs = tape.gradient(loss, (self.one.trainable_weights, self.other.trainable_weights))
        self.first.apply_gradients(zip(ours, self.one.trainable_weights))
        second.apply_gradients(zip(theirs, self.other.trainable_weights))
        return {"loss": loss}


def counting() -> Counting:
    Counting.calls = 0
    model = Counting()
    model.compile(keras.optimizers.Adam(0.01), "mse")
    return model


def two_optimizers() -> TwoOptimizers:
    global second
    second = keras.optimizers.RMSprop(0.01)
    model = TwoOptimizers()
    model.compile()
    return model


def fitted() -> keras.Model:
    """Trained before, by both: has compiled steps, a History, and an engine."""
    model = noisy()
    model.fit(*data(), epochs=2, verbose=0)
    fitcore.fit(model, *data(), epochs=1, verbose=0)
    return model


def held(model: keras.Model) -> list[Any]:
    """What is there of a model: a training of it from here, what it counts, and the variables of its optimizers."""
    more = model.account() if isinstance(model, Counting) else []
    if isinstance(model, TwoOptimizers):
        more = [len(model.first.variables), len(second.variables)]
    before = [more, len(model.variables), len(model.optimizer.variables if model.optimizer else ()), model.built]
    history = getattr(model, "history", None)
    engine = vars(model).get("_fitcore_engine")
    before += [history and dict(history.history), engine and engine.traces, model.train_function is None]
    after = trained(model)
    if isinstance(model, TwoOptimizers):
        after += [[v.numpy().tobytes() for v in optimizer.variables] for optimizer in (model.first, second)]
    return [before, after]


@pytest.mark.parametrize("make", [noisy, counting, two_optimizers, fitted])
def test_identical_and_nothing_is_left_of_the_check(make):
    def use(model):
        asked = {} if make is two_optimizers else {"noise": True}
        result = fitcore.check(model, *data(), steps=6, batch_size=8, **asked)
        assert result.identical, str(result)
        assert str(result).startswith("bit-identical over 6 steps (plain"), str(result)
        assert result.trainings == (("plain", "with noise") if asked else ("plain",))

    unused, used = same_afterwards(make, use, held)
    assert unused == used


class Served(keras.utils.PyDataset):
    """Counts what was asked of it, and draws."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []
        self.ended = 0
        self.random = np.random.default_rng(0)

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> Any:
        self.asked.append(index)
        x, y = data()
        return x[4 * index : 4 * index + 4] + self.random.normal(size=(4, 3)), y[4 * index : 4 * index + 4]

    def on_epoch_end(self) -> None:
        self.ended += 1


def shuffled() -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(data()).cache().shuffle(20, seed=3).batch(4)


@pytest.mark.parametrize("make", [shuffled, lambda: of_unknown_size(dataset()), Served, lambda: dataset().repeat()])
def test_data_that_are_read_stay_as_they_were(make):
    def use(x):
        endless = {"steps_per_epoch": 4} if isinstance(x, tf.data.Dataset) and x.cardinality() == -1 else {}
        result = fitcore.check(model, x, steps=7, **endless)
        assert result.identical, str(result)
        assert result.steps == (8 if endless else 10)

    model = linear()

    def see(x):
        if isinstance(x, Served):
            return [list(x.asked), x.ended, x[1][0].tolist()]
        return [[leaf.numpy().tolist() for leaf in batch] for _ in range(2) for batch in x.take(5)]

    unused, used = same_afterwards(make, use, see)
    assert unused == used


def test_without_a_global_seed_both_shuffle_alike(monkeypatch):
    for name in ("_seed", "_rng"):
        monkeypatch.setattr(context.context(), name, None)
    result = fitcore.check(linear(), *data(), steps=6, batch_size=4)
    assert result.identical, str(result)
    assert keras_private.global_seed() is None


def test_arrays_of_more_batches_than_steps_keep_their_small_last_batch():
    x, y = data(43)
    rows: queue.SimpleQueue[int] = queue.SimpleQueue()  # a list would be put back as it was
    model = linear(run_eagerly=True)
    step = type(model).train_step

    def noting(batch):
        rows.put(len(batch[0]))
        return step(model, batch)

    with keras_private.replaced(model, "train_step", noting):
        result = fitcore.check(model, x, y, steps=4, batch_size=8, shuffle=False)
    assert result.identical
    assert result.steps == 4
    assert [rows.get() for _ in range(4)] == [8, 8, 8, 3]


def test_a_generator_gives_no_more_batches_than_were_trained_on():
    batches = iter([(x, y) for x, y in dataset().repeat(3).as_numpy_iterator()])
    assert fitcore.check(linear(), (batch for batch in batches), steps=6).identical
    assert len(list(batches)) == 15 - 6


# --- a planted difference ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def rounded_otherwise(name: str) -> Iterator[None]:
    """Within it one number of what this layer gives is the next one, in what fitcore traces."""
    before = parts.by_onednn

    def nudged(layer: Any, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        output = method(*args, **kwargs)
        if layer.name != name:
            return output
        first = tf.one_hot(0, tf.size(output), on_value=True, off_value=False, dtype=tf.bool)
        return tf.where(tf.reshape(first, tf.shape(output)), tf.math.nextafter(output, output + 1), output)

    @contextlib.contextmanager
    def changed(model: Any, exact: bool) -> Iterator[None]:
        with onednn.by_onednn(model, exact=exact), keras_private.computed_by(model, [(layers.Dense, "call", nudged)]):
            yield

    parts.by_onednn = changed
    try:
        yield
    finally:
        parts.by_onednn = before


def deep() -> keras.Model:
    body = [layers.Dense(4, activation="tanh", name=f"layer_{i}") for i in range(3)]
    model = keras.Sequential([keras.Input((3,)), *body, layers.Dense(1, name="layer_3")])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


@pytest.mark.parametrize("name", ["layer_0", "layer_2"])
def test_finds_one_rounding_in_one_layer_and_names_it(name):
    model = deep()
    before = state(model)
    with rounded_otherwise(name):
        result = fitcore.check(model, *data(), steps=10, batch_size=4)
    assert not result.identical
    assert result.keras_repeats
    assert result.training == "plain"
    assert result.layer == name
    assert f"the output of layer {name} (Dense)" in result.operation
    assert result.first_step in range(10)
    assert 0 < result.difference < 1e-5
    said = str(result)
    assert f"first at step {result.first_step}, in {result.variable}" in said
    assert "what to do: report" in said
    assert state(model) == before
    assert fitcore.check(model, *data(), steps=10, batch_size=4).identical


def test_finds_a_rounding_that_only_comes_with_what_was_asked_for(monkeypatch):
    def nudged(seen):
        weight = seen.variables[0]
        with tf.control_dependencies([weight.assign(weight + 1e-3)]):
            return tf.identity(seen.loss)

    result = fitcore.check(deep(), *data(), steps=5, batch_size=4, record={"mine": nudged})
    assert not result.identical
    assert result.training == "with record"
    assert result.first_step == 0
    assert result.variable.endswith("layer_0/kernel")
    assert "layer_0/kernel" in result.operation
    assert "without what was asked for here (record)" in result.advice


def test_says_when_keras_does_not_repeat_itself():
    class Restless(layers.Layer):
        def call(self, x):
            noise = tf.numpy_function(lambda: np.frombuffer(random.SystemRandom().randbytes(4), "uint8")[0], [], tf.uint8)
            return x + tf.cast(tf.reshape(noise, []), x.dtype)

        def compute_output_spec(self, x):
            return keras.KerasTensor(x.shape, x.dtype)

    model = keras.Sequential([keras.Input((3,)), Restless(), layers.Dense(1)])
    model.compile("sgd", "mse")
    result = fitcore.check(model, *data(), steps=5)
    assert not result.identical
    assert not result.keras_repeats
    assert "Keras's own fit, run twice" in str(result)
    assert "none of fitcore's" in str(result)


# --- what is not called --------------------------------------------------------------------------------------------------


def test_callbacks_and_hooks_are_asked_for_nothing_and_cost_what_they_cost(tmp_path):
    class Loud(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            raise AssertionError

        def on_train_batch_end(self, batch, logs=None):
            raise AssertionError

    class LoudHook(fitcore.Hook):
        when = fitcore.every(3)
        record = ("step/gradient_norm",)

        def begin(self, view):
            raise AssertionError

        def after_steps(self, view):
            raise AssertionError

    class Halving:
        needs = ("step/loss",)
        changes = ("learning_rate",)

        def start(self):
            return {"n": 0.0}

        def after_step(self, state, seen):
            return fitcore.Outcome({"n": state["n"] + 1}, stop=state["n"] > 2, settings={"learning_rate": 0.0})

    rule = Halving()
    stopping = fitcore.InLoop(rule)
    given = {"callbacks": [Loud()], "hooks": [LoudHook(), stopping, fitcore.TensorBoard(tmp_path)], "steps": 9}
    result = fitcore.check(linear(), *data(), batch_size=8, noise=fitcore.GradientNoise(directory=tmp_path), **given)
    assert result.identical, str(result)
    assert result.trainings == ("plain", "with noise, hooks")
    assert not list(tmp_path.iterdir())
    assert stopping.loop_state is None


# --- remembered ----------------------------------------------------------------------------------------------------------


def exact(model: keras.Model, *more: Any, **arguments: Any) -> str:
    return next(line for line in fitcore.explain(model, *more, **arguments).splitlines() if line.startswith("  exact "))


def test_explain_says_what_was_found_here(monkeypatch, tmp_path):
    monkeypatch.setenv("FITCORE_CACHE", str(tmp_path / "plans.json"))
    model, x, y = deep(), *data()

    def said(**arguments: Any) -> str:
        return exact(model, x, y, **{"batch_size": 4} | arguments)

    assert "not checked on this machine" in said()
    result = fitcore.check(model, x, y, steps=10, batch_size=4)
    assert f"checked on this machine on {result.date}: bit-identical over 10 steps (plain)" in said()
    assert "not checked" in said(batch_size=8)
    assert "not checked" in said(noise=True)
    assert "not checked" in exact(linear(), x, y, batch_size=4)
    assert said().startswith("  exact       yes: bit-identical to model.fit of Keras ")

    with rounded_otherwise("layer_0"):
        assert not fitcore.check(model, x, y, steps=10, batch_size=4).identical
    assert said().startswith("  exact       no: checked on this machine on ")
    assert "differs from Keras's fit (plain): first at step" in said()

    with monkeypatch.context() as other:
        other.setattr("fitcore.keras_private.onednn_is_on", lambda: not result.oneDNN)
        assert "not checked" in said()
    (tmp_path / "checks.json").write_text("{")
    assert "not checked" in said()


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"steps": 0}, ValueError, "`steps` must be at least 1. Received: steps=0"),
        ({"steps": 2.5}, TypeError, "`steps` must be an int"),
        ({"numerics": "fast"}, ValueError, "`numerics`: check compares"),
        ({"schedule": lambda step: 0.1}, ValueError, "`schedule`: check compares"),
        ({"batch_size": lambda step: 4}, ValueError, "`batch_size`: check compares"),
        ({"shuffle": fitcore.Reshuffle(3)}, ValueError, "`shuffle`: check compares"),
        ({"epoch": 3}, TypeError, "unexpected keyword argument 'epoch'"),
        ({"hooks": [keras.callbacks.Callback()]}, TypeError, "`hooks` must hold fitcore hooks"),
    ],
)
def test_says_which_argument_is_wrong(arguments, error, says):
    with pytest.raises(error, match=says.replace("(", r"\(")):
        fitcore.check(linear(), *data(), **arguments)


def test_says_which_model_is_wrong():
    engine = fitcore.Engine(linear(), optimizer=keras.optimizers.SGD(), loss=keras.losses.MeanSquaredError())
    with pytest.raises(TypeError, match="`model` must be a compiled Keras model: Keras can't train an Engine"):
        fitcore.check(engine, *data())
    with pytest.raises(ValueError, match="compile"):
        fitcore.check(keras.Sequential([layers.Dense(1)]), *data())
    with pytest.raises(ValueError, match="`x` must be arrays"):
        fitcore.check(linear())


# --- the command ---------------------------------------------------------------------------------------------------------

SCRIPT = """
import hashlib, keras, numpy as np, sys
keras.utils.set_random_seed(3)
model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, name="hidden"), keras.layers.Dense(1)])
model.compile("adam", "mse")
x = np.random.default_rng(0).normal(size=(40, 3)).astype("float32")
def batches():
    while True:
        rows = np.random.randint(0, 40, 8)
        yield x[rows], x[rows, :1]
model.fit(x, x[:, :1], epochs=2, verbose=0)
if len(sys.argv) == 1:
    model.fit(batches(), steps_per_epoch=4, epochs=2, verbose=0, shuffle=False)
WEIGHTS = b"".join(weight.tobytes() for weight in model.get_weights())
print("weights", hashlib.sha256(WEIGHTS).hexdigest())
"""


def test_the_command_checks_each_fit_and_trains_it_as_ever(tmp_path, monkeypatch, capsys):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    monkeypatch.setattr(sys, "argv", ["fitcore"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    runpy.run_path(str(script), run_name="__main__")
    expected = capsys.readouterr().out
    try:
        command.main(["--check", str(script)])
        out, err = capsys.readouterr()
        assert out == expected
        lines = [line for line in err.splitlines() if line.startswith("check: ")]
        assert [line.split(": ", 2)[2].split(" over")[0] for line in lines] == ["bit-identical", "bit-identical"]
        fitcore.unpatch_keras()
        with rounded_otherwise("hidden"), pytest.raises(SystemExit, match=r"1 of 1 fits differ") as ended:
            command.main(["--check", str(script), "one"])
        assert isinstance(ended.value.code, str)  # which is exit status 1
        assert "the output of layer hidden (Dense)" in capsys.readouterr().err
    finally:
        fitcore.unpatch_keras()
