"""How fits and evaluations end early or have nothing to do, beside Keras's: the same steps, calls, History and weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import fitcore

X = np.random.default_rng(0).normal(size=(20, 3)).astype("float32")
Y = X @ np.ones((3, 1), "float32")


def made(steps_per_execution: int = 1) -> keras.Model:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dropout(0.5), keras.layers.Dense(1)])
    model.compile("adam", "mse", metrics=["mae"], steps_per_execution=steps_per_execution)
    return model


_models: dict[tuple[str, int], tuple[keras.Model, list[np.ndarray]]] = {}


class By:
    """Calls by Keras, by fitcore or by Keras patched."""

    def __init__(self, way: str) -> None:
        self.way = way

    def made(self, steps_per_execution: int = 1) -> keras.Model:
        """A model as `made` makes it. It is one for each way, put back as it was, since tracing is what takes the time."""
        key = self.way, steps_per_execution
        if key not in _models:
            model = made(steps_per_execution)
            model.optimizer.build(model.trainable_variables)
            _models[key] = model, [variable.numpy() for variable in _variables(model)]
        model, values = _models[key]
        for variable, value in zip(_variables(model), values):
            variable.assign(value)
        keras.utils.set_random_seed(1)
        return model

    def fit(self, model: keras.Model, *args: Any, **kwargs: Any) -> Any:
        return self._run("fit", model, *args, **kwargs)

    def evaluate(self, model: keras.Model, *args: Any, **kwargs: Any) -> Any:
        return self._run("evaluate", model, *args, **kwargs)

    def _run(self, method: str, model: keras.Model, *args: Any, **kwargs: Any) -> Any:
        if self.way == "fitcore":
            return getattr(fitcore, method)(model, *args, verbose=0, **kwargs)
        if self.way == "keras":
            return getattr(model, method)(*args, verbose=0, **kwargs)
        with fitcore.patch_keras() as patch:
            found = getattr(model, method)(*args, verbose=0, **kwargs)
        assert not patch.fallbacks
        return found


def same_for_all(scenario: Callable[[By], Any], ways: tuple[str, ...] = ("fitcore",)) -> Any:
    """What the scenario gives by Keras, after having seen that fitcore's ways give the same."""
    found = []
    for way in ("keras", *ways):
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                result = scenario(By(way))
            except Exception as error:
                result = type(error)
        found.append((result, sorted(str(each.message)[:24] for each in warned if each.category is UserWarning)))
    for other in found[1:]:
        assert other == found[0]
    return found[0][0]


def _variables(model: keras.Model) -> list[Any]:
    known = [*model.variables, *model.optimizer.variables]
    return list({id(variable): variable for variable in known if "metrics" not in variable.path}.values())


def end(model: keras.Model) -> list[list[Any]]:
    return [variable.numpy().tolist() for variable in _variables(model)]


class Calls(keras.callbacks.Callback):
    """Notes each call of the named methods, and does something at one of them."""

    def __init__(self, method: str, act: Callable[[Any, int | None], None], notes: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.noted: list[Any] = []
        for name in {method, *notes}:
            setattr(self, name, self._method(name, act if name == method else None))

    def _method(self, name: str, act: Callable[[Any, int | None], None] | None) -> Callable[..., None]:
        def call(*arguments: Any, logs: Any = None) -> None:
            number = next((each for each in arguments if isinstance(each, int)), None)
            self.noted.append((name, number))
            if act is not None:
                act(self.model, number)

        return call


BEGIN_OR_END = [
    "on_train_begin",
    "on_epoch_begin",
    "on_train_batch_begin",
    "on_train_batch_end",
    "on_test_begin",
    "on_test_batch_begin",
    "on_test_batch_end",
    "on_test_end",
    "on_epoch_end",
]


@pytest.mark.parametrize("each", [1, 3])
@pytest.mark.parametrize("method", BEGIN_OR_END)
def test_stop_training_waits_for_an_execution(method: str, each: int) -> None:
    """Wherever a callback sets it, and with other callbacks that see each batch or none."""

    def scenario(by: By) -> Any:
        results = []
        for at in (1,):
            for notes in ((), ("on_train_batch_begin", "on_train_batch_end", "on_epoch_end")):
                model = by.made(each)

                def stop(model: Any, number: int | None, at: int | None = at) -> None:
                    model.stop_training = at is None or number is None or number == at

                calls = Calls(method, stop, notes)
                history = by.fit(
                    model, X, Y, batch_size=2, epochs=3, callbacks=[calls], validation_data=(X, Y), shuffle=False
                ).history
                results.append((history, end(model), calls.noted))
        return results

    assert len(same_for_all(scenario, ("fitcore", "patched"))) == 2


def test_stop_training_before_the_first_batch_makes_one_execution() -> None:
    """What is compared above, in figures: 10 batches each epoch; one execution more than before the flag."""
    for each, steps in ((1, 11), (4, 14)):
        model = made(each)
        stops = Calls("on_epoch_begin", lambda model, epoch: setattr(model, "stop_training", epoch == 1))
        history = fitcore.fit(model, X, Y, batch_size=2, epochs=3, verbose=0, callbacks=[stops])
        assert int(model.optimizer.iterations) == steps
        assert (history.stop_reason.by, history.stop_reason.epoch, history.stop_reason.step) == ("callbacks", 1, steps)


def test_a_hook_that_sees_each_step_does_not_cut_the_execution() -> None:
    """A hook brings the host back within an execution. The callback's wish waits for its end all the same."""

    class Sees(fitcore.Hook):
        when = fitcore.every(1)

    model = made(4)
    stops = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: setattr(model, "stop_training", True))
    fitcore.fit(model, X, Y, batch_size=2, verbose=0, callbacks=[stops], hooks=[Sees()])
    assert int(model.optimizer.iterations) == 4


@pytest.mark.parametrize("each", [1, 3])
@pytest.mark.parametrize("method", ["on_test_begin", "on_test_batch_begin", "on_test_batch_end"])
def test_stop_evaluating_waits_for_an_execution(method: str, each: int) -> None:
    def scenario(by: By) -> Any:
        results = []
        for notes in ((), ("on_test_batch_end",)):
            calls = Calls(method, lambda model, number: setattr(model, "stop_evaluating", True), notes)
            results.append((by.evaluate(by.made(each), X, Y, batch_size=2, callbacks=[calls]), calls.noted))
        return results

    assert same_for_all(scenario)


@pytest.mark.parametrize(("each", "error"), [(1, StopIteration), (3, tf.errors.OutOfRangeError)])
@pytest.mark.parametrize("data", ["arrays", "unknown size", "steps_per_epoch"])
@pytest.mark.parametrize("method", ["on_epoch_begin", "on_train_batch_begin", "on_train_batch_end", "on_test_batch_end"])
def test_a_callback_that_raises_as_data_that_end(method: str, data: str, error: type[Exception], each: int) -> None:
    """Keras catches it in batch methods, and takes it for the end of the data: for the epochs to come too."""

    def scenario(by: By) -> Any:
        def act(model: Any, number: int | None) -> None:
            raise StopIteration if error is StopIteration else tf.errors.OutOfRangeError(None, None, "mine")

        def once(model: Any, number: int | None) -> None:
            if number in (None, 3):
                act(model, number)

        model = by.made(each)
        calls = Calls(method, once, ("on_train_batch_begin", "on_epoch_begin", "on_epoch_end"))
        arguments: dict[str, Any] = {"x": X, "y": Y, "batch_size": 2, "shuffle": False}
        if data != "arrays":
            whole = tf.data.Dataset.from_tensor_slices((X, Y)).batch(2)
            arguments = {"x": whole.filter(lambda x, y: True), "shuffle": None}
        if data == "steps_per_epoch":
            arguments |= {"x": whole.repeat(), "steps_per_epoch": 4}
        try:
            by.fit(model, **arguments, epochs=3, callbacks=[calls], validation_data=(X[:8], Y[:8]), validation_batch_size=1)
            ended = None
        except Exception as raised:
            ended = type(raised)
        return ended, model.history.history, end(model), calls.noted

    same_for_all(scenario)


def no_batches() -> Iterator[Any]:
    return
    yield


class NoBatches(keras.utils.PyDataset):
    def __len__(self) -> int:
        return 0

    def __getitem__(self, index: int) -> Any:
        raise IndexError


EMPTY: dict[str, Callable[[], Any]] = {
    "too few for a batch": lambda: tf.data.Dataset.from_tensor_slices((X, Y)).batch(32, drop_remainder=True),
    "of unknown size": lambda: tf.data.Dataset.from_tensor_slices((X, Y)).batch(2).filter(lambda x, y: False),
    "no rows": lambda: (X[:0], Y[:0]),
    "generator": no_batches,
    "PyDataset": NoBatches,
}


@pytest.mark.parametrize("each", [1, 3])
@pytest.mark.parametrize("kind", EMPTY)
def test_validation_without_a_batch(kind: str, each: int) -> None:
    """Keras warns and trains on, without `val_`; of a generator and a PyDataset it says that they are empty."""

    def scenario(by: By) -> Any:
        model = by.made(each)
        calls = Calls("on_test_begin", lambda model, number: None, ("on_test_batch_begin", "on_test_batch_end", "on_test_end"))
        arguments: dict[str, Any] = {"validation_data": EMPTY[kind](), "callbacks": [calls], "shuffle": False}
        history = by.fit(model, X, Y, epochs=2, **arguments).history
        steps = None if kind == "no rows" else 2  # of no rows Keras can't make steps: it divides by zero
        by.fit(model, X, Y, validation_data=EMPTY[kind](), validation_steps=steps)
        return history, end(model), calls.noted, calls.params["steps"]

    result = same_for_all(scenario, ("fitcore", "patched"))
    if kind in ("generator", "PyDataset"):
        assert result in (ValueError, IndexError)  # the latter before Keras 3.13
    else:
        assert set(result[0]) == {"loss", "mae"}


@pytest.mark.parametrize("kind", EMPTY)
def test_evaluation_without_a_batch(kind: str) -> None:
    def scenario(by: By) -> Any:
        data = EMPTY[kind]()
        x, y = data if isinstance(data, tuple) else (data, None)
        model = by.made()
        listed = by.evaluate(model, x, y)
        named = by.evaluate(model, x, y, return_dict=True)
        by.evaluate(model, X, Y)
        again = by.evaluate(model, x, y, return_dict=True)  # what was read before counts no more
        return listed, named, again, by.evaluate(model, x, y, steps=2, return_dict=True)

    result = same_for_all(scenario)
    assert result in (([], {}, {}, {}), ValueError, IndexError, ZeroDivisionError)
    assert isinstance(result, tuple) == (kind in ("too few for a batch", "of unknown size"))


def test_validation_data_without_targets_are_named() -> None:
    with pytest.raises(ValueError, match=r"`validation_data` must hold targets, as in \(x, y\).*Received: no targets"):
        fitcore.fit(made(), X, Y, validation_data=X, verbose=0)
    with pytest.raises(ValueError, match="`y` is needed"):
        fitcore.fit(made(), X, verbose=0)
