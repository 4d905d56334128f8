"""When Keras's compiled step is made anew and when a stale one goes on: fitcore's programs do the same, call by call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import fitcore

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(60, 4)).astype("float32"), RNG.integers(0, 3, 60)
LOSS = "sparse_categorical_crossentropy"


def classifier(optimizer: str = "sgd", steps_per_execution: int = 1) -> keras.Model:
    layers = [keras.layers.Dense(6, "relu"), keras.layers.BatchNormalization(), keras.layers.Dropout(0.3)]
    model = keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(3, "softmax")])
    model.compile(optimizer, LOSS, metrics=["accuracy"], steps_per_execution=steps_per_execution)
    return model


class Calls:
    """A model's methods: Keras's, fitcore's functions, or Keras's while it is patched."""

    def __init__(self, way: str, make: Callable[[], keras.Model]) -> None:
        keras.utils.clear_session()
        keras.utils.set_random_seed(3)
        self.way, self.model = way, make()

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if method in ("fit", "evaluate"):
                options["verbose"] = 0
            try:
                if self.way == "fitcore":
                    found = getattr(fitcore, method)(self.model, *arguments, **options)
                else:
                    found = getattr(self.model, method)(*arguments, **options)
            except (TypeError, ValueError) as error:
                return type(error)
            return found.history if method == "fit" else found

        return call


Script = Callable[[keras.Model, Any], Iterator[Any]]


def same(script: Script, make: Callable[[], keras.Model] = classifier, patched: bool = False) -> Calls:
    """See that what the script yields and the state after each yield are Keras's; returns fitcore's `Calls`."""
    found = []
    for way in ("keras", "patched" if patched else "fitcore"):
        calls = Calls(way, make)
        with fitcore.patch_keras() if way == "patched" else fitcore_alone():
            found.append([(result, _state(calls.model)) for result in script(calls.model, calls)])
    assert [repr(result) for result, _ in found[1]] == [repr(result) for result, _ in found[0]]
    for i, ((_, ours), (_, keras_s)) in enumerate(zip(found[1], found[0])):
        assert all(np.array_equal(one, other, equal_nan=True) for one, other in zip(ours, keras_s, strict=True)), f"call {i}"
    return calls


def fitcore_alone() -> Any:
    import contextlib

    return contextlib.nullcontext()


def _state(model: keras.Model) -> list[np.ndarray]:
    return [variable.numpy() for variable in [*model.variables, *model.optimizer.variables]]


# --- shapes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("each", [1, 3])
def test_full_batches_that_grow(each: int) -> None:
    """From the second size on one trace serves all, as in Keras."""

    def script(model: keras.Model, by: Any) -> Iterator[Any]:
        for n in range(5, 23, 3):
            yield by.fit(X[:n], Y[:n], batch_size=n, epochs=2)

    calls = same(script, lambda: classifier("adam", each))
    assert fitcore.Engine.of_compiled(calls.model).traces == 2


def test_sizes_that_divide_and_do_not() -> None:
    """Validation, evaluation and single batches between the fits: each of Keras's two steps knows its own shapes."""

    def script(model: keras.Model, by: Any) -> Iterator[Any]:
        for n, rows in ((20, 5), (24, 8), (18, 4), (40, 5), (33, 11)):
            data = X[:n], Y[:n]
            yield by.fit(*data, batch_size=rows, validation_data=data, epochs=2)
            yield by.evaluate(X[: n // 2], Y[: n // 2], batch_size=rows)
            yield by.train_on_batch(X[:rows], Y[:rows])
            yield by.fit(*data, batch_size=rows, sample_weight=np.ones(n))
            yield by.train_on_batch(X[:rows], Y[:rows], np.ones(rows, "float32"))

    same(script)


def test_sequences_of_other_lengths() -> None:
    def make() -> keras.Model:
        layers = [keras.layers.Conv1D(4, 2, padding="same", activation="relu"), keras.layers.LSTM(5), keras.layers.Dense(1)]
        model = keras.Sequential([keras.Input((None, 3)), *layers])
        model.compile("adam", "mse")
        return model

    def script(model: keras.Model, by: Any) -> Iterator[Any]:
        for n, length in ((6, 5), (6, 7), (8, 9), (10, 4)):
            x = np.sin(np.arange(n * length * 3)).reshape(n, length, 3).astype("float32")
            yield by.fit(x, x[:, 0, :1], batch_size=2, epochs=2)
            yield by.evaluate(x, x[:, 0, :1], batch_size=n)

    same(script, make)


def test_other_dtypes_ranks_and_kinds_of_data() -> None:
    def dataset(n: int) -> tf.data.Dataset:
        return tf.data.Dataset.from_tensor_slices((X[: 2 * n], Y[: 2 * n])).batch(n, drop_remainder=True)

    def script(model: keras.Model, by: Any) -> Iterator[Any]:
        for n in (4, 6, 8):
            yield by.fit(dataset(n), shuffle=None)
            yield by.fit(dataset(n).filter(lambda x, y: tf.size(y) > 0), shuffle=None)
            yield by.fit(X[:n], Y[:n], batch_size=n)
            yield by.fit(X[:n], Y[:n].astype("int32"), batch_size=n)
            yield by.evaluate(dataset(n))
        yield by.fit(X[:9], Y[:9, None], batch_size=9)  # targets of another rank, which Keras's general trace can't take

    same(script)


def test_shapes_that_one_program_has_seen_are_known_to_the_others() -> None:
    """Keras has one step for all fits; fitcore a program for each set of records."""

    def script(model: keras.Model, by: Any) -> Iterator[Any]:
        for i, n in enumerate((5, 8, 11, 14)):
            options = {"record": ()} if by.way == "fitcore" and i % 2 else {}
            yield by.fit(X[:n], Y[:n], batch_size=n, epochs=2, **options)

    same(script)


# --- the step made anew, or not -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("patched", [False, True])
def test_what_is_seen_at_once_and_what_when_the_step_is_made_anew(patched: bool) -> None:
    def thawed_and_frozen(model: keras.Model, by: Any) -> Iterator[Any]:
        data = X[:20], Y[:20]
        yield by.fit(*data, batch_size=5)
        model.layers[0].trainable = False
        yield by.fit(*data, batch_size=5)  # stale
        yield by.fit(X[:21], Y[:21], batch_size=5)  # of unknown size: traced now
        yield by.train_on_batch(X[:4], Y[:4])
        model.train_function = None
        yield by.fit(*data, batch_size=5)
        model.layers[1].trainable = False
        model.make_train_function(force=True)
        yield by.fit(*data, batch_size=5)
        yield by.evaluate(*data)
        model.layers[2].rate = 0.9
        yield by.fit(*data, batch_size=5)
        model.compile("adam", LOSS, metrics=["accuracy"])
        yield by.fit(*data, batch_size=5)
        yield by.evaluate(*data)

    same(thawed_and_frozen, patched=patched)


def test_another_optimizer_counts_from_the_next_trace_on() -> None:
    def script(model: keras.Model, by: Any) -> Iterator[Any]:
        yield by.fit(X[:20], Y[:20], batch_size=5)
        model.optimizer = keras.optimizers.SGD(0.5)
        model.optimizer.build(model.trainable_variables)
        for n in (20, 21, 20):
            yield by.fit(X[:n], Y[:n], batch_size=5)
            yield int(model.optimizer.iterations)

    same(script, lambda: classifier("adam"))


def test_settings_of_the_step_are_read_when_it_is_made() -> None:
    def script(model: keras.Model, by: Any) -> Iterator[Any]:
        data = X[:20], Y[:20]
        yield by.fit(*data, batch_size=5)
        model.run_eagerly = True
        yield by.fit(*data, batch_size=5)  # compiled still,
        yield by.evaluate(*data)  # while this step is made now
        assert by.way == "keras" or not fitcore.Engine.of_compiled(model).run_eagerly
        model.make_train_function(force=True)
        yield by.fit(*data, batch_size=5)
        model.run_eagerly = False
        assert by.way == "keras" or fitcore.Engine.of_compiled(model).run_eagerly
        model.train_function = model.test_function = None
        yield by.fit(*data, batch_size=5)
        yield by.evaluate(*data)

    same(script)


@pytest.mark.parametrize("patched", [False, True])
def test_quantized_and_lora(patched: bool) -> None:
    def script(model: keras.Model, by: Any) -> Iterator[Any]:
        data = X[:20], Y[:20]
        yield by.fit(*data, batch_size=5)
        yield by.evaluate(*data)
        model.layers[0].enable_lora(2)
        yield by.fit(*data, batch_size=5)
        model.compile("sgd", LOSS)
        yield by.fit(*data, batch_size=5)
        yield by.evaluate(*data)
        yield by.test_on_batch(*data)
        model.quantize("int8")
        yield by.evaluate(*data)
        yield by.test_on_batch(*data)

    same(script, patched=patched)


class Compiles(keras.callbacks.Callback):
    """Compiles the model anew at the `at`-th call of a method; `make`: and has Keras make its steps."""

    def __init__(self, method: str, at: int, make: bool) -> None:
        super().__init__()
        left = [at]

        def call(*arguments: Any, logs: Any = None) -> None:
            left[0] -= 1
            if left[0] == 0:
                self.model.compile(keras.optimizers.SGD(0.05), LOSS, metrics=["accuracy"])
                if make:
                    self.model.make_train_function()
                    self.model.make_test_function()

        setattr(self, method, call)


@pytest.mark.parametrize("make", [True, False])
@pytest.mark.parametrize(
    ("method", "at"),
    [
        ("on_train_begin", 1),
        ("on_epoch_begin", 2),
        ("on_epoch_end", 3),
        ("on_train_batch_begin", 3),
        ("on_train_batch_end", 2),
        ("on_test_begin", 1),
        ("on_test_batch_end", 1),
    ],
)
def test_compile_in_a_callback(method: str, at: int, make: bool) -> None:
    """Keras trains on by the step that is there. If there is none it ends in a TypeError, at the same step."""

    def script(model: keras.Model, by: Any) -> Iterator[Any]:
        validation = {"validation_data": (X[:10], Y[:10]), "validation_batch_size": 5}
        yield by.fit(X[:20], Y[:20], batch_size=5, epochs=3, callbacks=[Compiles(method, at, make)], **validation)
        yield model.history.history
        yield int(model.optimizer.iterations)
        yield by.fit(X[:20], Y[:20], batch_size=5)

    same(script, lambda: classifier("adam"))


def test_other_executions_than_the_step_makes_are_refused() -> None:
    model = classifier()
    model.steps_per_execution = 2
    fitcore.fit(model, X, Y, verbose=0)
    model.steps_per_execution = 5
    with pytest.raises(ValueError, match=r"steps_per_execution was set to 5 .* compiled for 2.*call `compile\(\)`"):
        fitcore.fit(model, X, Y, verbose=0)
    model.compile("sgd", LOSS, steps_per_execution=5)
    fitcore.fit(model, X, Y, verbose=0)


def test_what_is_gone_or_changed_within_a_fit_is_named() -> None:
    def fit(act: Callable[[keras.Model], None]) -> None:
        model = classifier()
        callback = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: act(model))
        fitcore.fit(model, X, Y, verbose=0, callbacks=[callback])

    with pytest.raises(TypeError, match=r"`callbacks`: .* Call `model.make_train_function\(\)`.*model.train_function=None"):
        fit(lambda model: setattr(model, "train_function", None))
    with pytest.raises(ValueError, match=r"`callbacks`: one of them has replaced `model.train_function`"):
        fit(lambda model: setattr(model, "train_function", lambda iterator: {}))
    with pytest.raises(ValueError, match=r"`callbacks`: .*`steps_per_execution`.*Received: 3, before 1"):
        fit(lambda model: setattr(model, "steps_per_execution", 3))
