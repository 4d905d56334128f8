"""Keras's own methods routed through fitcore: on and off again, counted, and with Keras's results."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from models import data, dataset, linear, noisy, state

import fitcore
from fitcore import keras_private

METHODS = ("fit", "evaluate", "train_on_batch", "test_on_batch")


@pytest.fixture(autouse=True)
def unpatched() -> Iterator[None]:
    yield
    fitcore.unpatch_keras()


def use_everything(model: keras.Model) -> list[Any]:
    """Call each routed method, with arguments by position too; returns what they returned."""
    x, y = data()
    weights = np.linspace(0, 1, len(x), dtype="float32")
    results: list[Any] = []
    for _ in range(2):
        results.append(model.train_on_batch(x[:8], y[:8]))
        results.append(model.train_on_batch(x, y, weights, return_dict=True))
        results.append(model.fit(x, y, 8, 2, 0, sample_weight=weights, validation_data=(x, y)).history)
        results.append(model.test_on_batch(x[:5], y[:5]))
    results.append(model.evaluate(x, y, verbose=0, return_dict=True))
    return results


class Grouped(keras.Model):
    """Has a train_step of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = layers.Dense(1, kernel_initializer="ones")

    def call(self, x: Any) -> Any:
        return self.dense(x)

    def train_step(self, batch: Any) -> dict[str, Any]:
        return super().train_step(batch) | {"mine": keras.ops.sum(batch[0])}


def bare_layer(**compile_arguments: Any) -> Any:
    """A layer with Keras's fit that is no `keras.Model`, as in Keras's own tests."""

    class Trained(keras_private.trainer_class, layers.Dense):
        def __init__(self) -> None:
            layers.Dense.__init__(self, 1, kernel_initializer="ones")
            keras_private.trainer_class.__init__(self)

    model = Trained()
    model.compile(**{"optimizer": "sgd", "loss": "mse"} | compile_arguments)
    return model


def grouped() -> Any:
    model = Grouped()
    model.compile(optimizer="adam", loss="mse", metrics=["mae"])
    return model


@pytest.mark.parametrize(
    "make",
    [noisy, bare_layer, grouped, lambda: bare_layer(run_eagerly=True)],
    ids=["model", "layer", "own train_step", "eager"],
)
def test_every_method_goes_through_fitcore_with_the_same_results(make: Callable[[], Any]) -> None:
    keras.utils.set_random_seed(3)
    expected = make()
    results = use_everything(expected)
    assert "_fitcore_engine" not in vars(expected)

    keras.utils.clear_session()
    keras.utils.set_random_seed(3)
    model = make()
    with fitcore.patch_keras() as patch:
        assert repr(use_everything(model)) == repr(results)  # to the last bit, and of the same types
    assert state(model) == state(expected)
    assert patch.calls == {"fit": 2, "evaluate": 1, "train_on_batch": 4, "test_on_batch": 2}
    assert not patch.fallbacks
    assert patch.steps == 2 * 2 * 3
    assert patch.seconds > 0


def test_class_weight_and_the_error_for_both_weights() -> None:
    x = data()[0]
    y = np.arange(len(x)) % 2
    expected = linear()
    wanted = expected.train_on_batch(x, y, class_weight={0: 0.3, 1: 2.0})
    keras.utils.clear_session()
    model = linear()
    assert fitcore.train_on_batch(model, x, y, class_weight={0: 0.3, 1: 2.0}) == wanted
    assert state(model) == state(expected)
    with pytest.raises(ValueError, match="cannot be specified at the same time"):
        fitcore.train_on_batch(model, x, y, class_weight={0: 0.3, 1: 2.0}, sample_weight=np.ones(len(x)))


def test_fit_and_train_on_batch_share_a_trace() -> None:
    model, seen = noisy(), []
    forward = model.layers[0].call
    model.layers[0].call = lambda x, **named: (seen.append(1), forward(x, **named))[1]
    x, y = data(16)
    weights = np.ones(16, "float32")
    fitcore.fit(model, x, y, sample_weight=weights, batch_size=8, verbose=0)
    traced = len(seen)
    fitcore.train_on_batch(model, x[:8], y[:8], weights[:8])
    fitcore.train_on_batch(model, x[8:], y[8:], weights[8:])
    assert len(seen) == traced > 0
    fitcore.train_on_batch(model, x[:3], y[:3], weights[:3])
    assert len(seen) > traced


def test_on_and_off() -> None:
    originals = {method: vars(keras_private.trainer_class)[method] for method in METHODS}

    def is_on() -> bool:
        on = {getattr(keras.Model, method) is not original for method, original in originals.items()}
        assert len(on) == 1  # all or none
        return on.pop()

    assert not is_on()
    fitcore.unpatch_keras()  # nothing to do
    with fitcore.patch_keras() as patch:
        assert is_on()
        assert fitcore.patch_keras() is patch
        with fitcore.patch_keras():
            pass
        assert is_on()  # what is around the inner `with` had put it on before
        with pytest.raises(ValueError, match="patched already"):
            fitcore.patch_keras(hooks=lambda model: ())
        fitcore.unpatch_keras()
        assert not is_on()
        with fitcore.patch_keras() as other:
            assert other is not patch
        assert not is_on()
    assert not is_on()
    with pytest.raises(KeyError), fitcore.patch_keras():
        raise KeyError
    assert not is_on()


def test_methods_keep_their_signature_and_errors() -> None:
    x, y = data()
    with fitcore.patch_keras():
        assert keras.Model.fit.__doc__ == fitcore.keras_private.trainer_class.fit.__wrapped__.__doc__
        with pytest.raises(TypeError, match="epoch"):
            linear().fit(x, y, epoch=3)
        with pytest.raises(ValueError, match="not recognized"):
            linear().evaluate(x, y, batch=3)
        with pytest.raises(ValueError, match="compile"):
            keras.Sequential([layers.Dense(1)]).fit(x, y)


class Counting(keras.Model):
    """Overrides fit and evaluate, and leaves the work to `super()`."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = layers.Dense(1)
        self.fits = self.evaluations = 0

    def call(self, x: Any) -> Any:
        return self.dense(x)

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        self.fits += 1
        return super().fit(*args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        self.evaluations += 1
        return super().evaluate(*args, **kwargs)


def test_a_class_that_overrides_fit_is_reached_through_super() -> None:
    def train() -> Counting:
        keras.utils.clear_session()
        keras.utils.set_random_seed(3)
        model = Counting()
        model.compile(optimizer="sgd", loss="mse")
        model.fit(dataset(), epochs=3, validation_data=dataset(8), verbose=0)
        assert (model.fits, model.evaluations) == (1, 3)
        return model

    expected = train()
    with fitcore.patch_keras() as patch:
        model = train()
    assert state(model) == state(expected)
    assert model.history.history == expected.history.history
    assert patch.calls == {"fit": 1, "evaluate": 3}


class OwnLoop(Grouped):
    """Replaces Keras's compiled step."""

    def make_train_function(self, force: bool = False) -> Any:
        super().make_train_function(force)
        self.stepped = 0
        inner = self.train_function

        def function(iterator: Any) -> Any:
            self.stepped += 1
            return inner(iterator)

        self.train_function = function


def test_what_fitcore_cannot_take_keras_runs_and_says_so() -> None:
    x, y = data()

    def train() -> OwnLoop:
        keras.utils.clear_session()
        model = OwnLoop()
        model.compile(optimizer="sgd", loss="mse")
        for _ in range(2):
            model.fit(x, y, validation_data=(x, y), epochs=2, batch_size=10, verbose=0)
        return model

    expected = train()
    with fitcore.patch_keras() as patch, warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        model = train()
        grouped = Grouped()
        grouped.compile(optimizer="sgd", loss="mse")
        grouped.train_function = lambda iterator: {"loss": 5.0}
        assert grouped.train_on_batch(x, y) == 5.0
        assert grouped.evaluate(x, y, verbose=0) > 0  # only its training is out of reach
    assert model.stepped == expected.stepped > 0
    assert state(model) == state(expected)
    said = [str(warning.message) for warning in warned if "not fitcore" in str(warning.message)]
    assert len(said) == 2
    assert "OwnLoop.fit" in said[0]
    assert "make_train_function" in said[0]
    assert {method: count for (method, _), count in patch.fallbacks.items()} == {"fit": 2, "train_on_batch": 1}
    assert patch.calls == {"evaluate": 1}
    with pytest.raises(ValueError, match="make_train_function"):
        fitcore.fit(model, x, y)


def test_a_model_without_an_optimizer() -> None:
    """Its own train_step may do without; Keras's fails in Keras's way, evaluation works."""

    class Manual(Grouped):
        def train_step(self, batch: Any) -> dict[str, Any]:
            self.dense.kernel.assign_add([[1.0], [1.0], [1.0]])
            return {"sum": keras.ops.sum(self.dense.kernel)}

    x, y = data()
    with fitcore.patch_keras() as patch:
        model = Manual()
        model.compile(optimizer=None, loss="mse")
        model(x)
        assert model.fit(x, y, verbose=0).history == {"sum": [6.0]}
        assert not patch.fallbacks

        model = linear(optimizer=None)
        assert model.evaluate(x, y, verbose=0) > 0
        with pytest.warns(UserWarning, match="without an optimizer"), pytest.raises(AttributeError):
            model.fit(x, y, verbose=0)


def test_hooks_for_every_fit() -> None:
    x, y = data()
    given = []

    class Noting(fitcore.Hook):
        def end(self, view: fitcore.View) -> None:
            given.append(view.step)

    models = [linear(), linear()]
    with fitcore.patch_keras(hooks=lambda model: [Noting()] if model is models[1] else []):
        for model in models:
            model.fit(x, y, batch_size=4, verbose=0)
    assert given == [5]


class Unknown(tf.distribute.Strategy):
    """A strategy that fitcore doesn't know, under which Keras trains."""

    def __init__(self) -> None:
        super().__init__(type(tf.distribute.OneDeviceStrategy("/cpu:0").extended)(self, "/cpu:0"))


def test_strategies_that_are_left_to_keras() -> None:
    x, y = data()
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    with strategy.scope():
        model = linear()
    with Unknown().scope():
        unknown = linear()
    plain = linear()
    distributed = strategy.experimental_distribute_dataset(dataset())
    with fitcore.patch_keras() as patch:
        model.fit(x, y, verbose=0)
        assert not patch.fallbacks
        with pytest.warns(UserWarning, match="Unknown"):
            unknown.fit(x, y, verbose=0)
        with pytest.warns(UserWarning, match="DistributedDataset"):
            plain.fit(distributed, verbose=0)
        plain.fit(x, y, validation_data=distributed, verbose=0)
    assert list(patch.fallbacks.values()) == [1, 2]
    assert patch.calls == {"fit": 1}
