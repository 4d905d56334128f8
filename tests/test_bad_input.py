"""Input that makes no sense: one clear error that names the argument, before any step; Keras's class where Keras has one.

Which class, for many more calls, is benchmarks/bad_calls' matter; here it is what the message says and when it comes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from models import data, dataset, linear

import fitcore

X, Y = data(20)
LABELS = np.arange(20) % 3
ONE_HOT = np.eye(3, dtype="float32")[LABELS]


def uncompiled() -> keras.Model:
    return keras.Sequential([keras.Input((3,)), layers.Dense(1)])


def classifier(loss: str) -> keras.Model:
    model = keras.Sequential([keras.Input((3,)), layers.Dense(3, activation="softmax")])
    model.compile("adam", loss)
    return model


def sparse() -> keras.Model:
    return classifier("sparse_categorical_crossentropy")


def one_hot() -> keras.Model:
    return classifier("categorical_crossentropy")


def two_outputs() -> keras.Model:
    inputs = keras.Input((3,))
    model = keras.Model(inputs, [layers.Dense(1, name="a")(inputs), layers.Dense(1, name="b")(inputs)])
    model.compile("adam", ["mse", "mse"])
    return model


def two_inputs() -> keras.Model:
    inputs = [keras.Input((3,)), keras.Input((3,))]
    model = keras.Model(inputs, layers.Dense(1)(layers.Concatenate()(inputs)))
    model.compile("adam", "mse")
    return model


class Batches(keras.utils.PyDataset):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Any:
        return X, Y


def given(**arguments: Any) -> dict[str, Any]:
    return {"x": X, "y": Y} | arguments


def validated(**arguments: Any) -> dict[str, Any]:
    return given(validation_data=(X, Y)) | arguments


Bad = tuple[Callable[[], keras.Model], dict[str, Any], type[Exception], str]

# What Keras refuses too, with the same class: (model, fit's arguments, class, what the message says).
REFUSED: dict[str, Bad] = {
    "y too short": (linear, given(y=Y[:19]), ValueError, r"'x' sizes: 20\n'y' sizes: 19"),
    "sample_weight too short": (linear, given(sample_weight=np.ones(7)), ValueError, "'sample_weight' sizes: 7"),
    "validation y too short": (
        linear,
        validated(validation_data=(X, Y[:19])),
        ValueError,
        "`validation_data`: (.|\n)*'y' sizes: 19",
    ),
    "validation tuple": (linear, validated(validation_data=(X, Y, Y, Y)), ValueError, "format `x`, `\\(x,\\)`, `\\(x, y\\)`"),
    "x a string": (linear, given(x="digits"), ValueError, "x=digits \\(of type <class 'str'>\\)"),
    "x a list of lists": (linear, given(x=X.tolist()), ValueError, "Unrecognized data type: x="),
    "not compiled": (uncompiled, given(), ValueError, "compile\\(\\)"),
    "no loss": (lambda: linear(loss=None), given(), ValueError, "`loss` argument in `compile\\(\\)`"),
    "no y": (linear, given(y=None), ValueError, "`y` is needed by the model's loss"),
    "features": (linear, given(x=X[:, :2]), ValueError, "expected axis -1 of input shape to have value 3"),
    "one-hot labels of another width": (
        one_hot,
        given(y=np.eye(4)[LABELS]),
        ValueError,
        r"\(None, 4\), output.shape=\(None, 3\)",
    ),
    "labels for a one-hot loss": (one_hot, given(y=LABELS), ValueError, r"target.shape=\(None,\), output.shape=\(None, 3\)"),
    "one-hot labels for a sparse loss": (sparse, given(y=ONE_HOT), ValueError, r"target.shape=\(None, 3\)"),
    "y for one of two outputs": (two_outputs, given(y=[Y]), ValueError, "y_true and y_pred have different structures"),
    "labels of text": (linear, given(y=np.array(["cat"] * 20)), ValueError, "Invalid dtype: str"),
    "y beside a dataset": (linear, {"x": dataset(), "y": Y}, ValueError, "`y` should not be passed"),
    "sample_weight beside a dataset": (linear, {"x": dataset(), "sample_weight": Y}, ValueError, "`sample_weights` should not"),
    "class_weight and sample_weight": (
        linear,
        given(class_weight={0: 1.0}, sample_weight=np.ones(20)),
        ValueError,
        "`class_weight` and `sample_weight`",
    ),
    "epochs 1.5": (linear, given(epochs=1.5), TypeError, "`epochs` must be an int. Received: epochs=1.5 of type float"),
    "epochs text": (linear, given(epochs="3"), TypeError, "`epochs` must be an int. Received: epochs='3' of type str"),
    "epochs None": (linear, given(epochs=None), TypeError, "`epochs` must be an int. Received: epochs=None"),
    "initial_epoch text": (linear, given(initial_epoch="1"), TypeError, "`initial_epoch` must be an int"),
    "batch_size negative": (
        linear,
        given(batch_size=-4),
        ValueError,
        "`batch_size` must be at least 1. Received: batch_size=-4",
    ),
    "batch_size 2.5": (linear, given(batch_size=2.5), TypeError, "`batch_size` must be an int. Received: batch_size=2.5"),
    "batch_size text": (linear, given(batch_size="4"), TypeError, "`batch_size` must be an int. Received: batch_size='4'"),
    "steps_per_epoch negative": (linear, given(steps_per_epoch=-1), ValueError, "`steps_per_epoch` must be at least 1"),
    "steps_per_epoch 1.5": (linear, given(steps_per_epoch=1.5), TypeError, "`steps_per_epoch` must be an int"),
    "validation_split 1": (
        linear,
        given(validation_split=1.0),
        ValueError,
        r"`validation_split` must be in \[0, 1\). Received",
    ),
    "validation_split text": (linear, given(validation_split="half"), TypeError, "`validation_split` must be a number"),
    "validation_split of a dataset": (
        linear,
        {"x": dataset(), "validation_split": 0.2},
        ValueError,
        "`validation_split` is only",
    ),
    "validation_freq text": (linear, validated(validation_freq="every"), ValueError, "Received: validation_freq='every'"),
    "validation_freq 1.5": (
        linear,
        validated(validation_freq=1.5),
        ValueError,
        "`validation_freq` must be an int of at least 1",
    ),
    "validation_freq a tuple": (linear, validated(validation_freq=(1, 2)), ValueError, "`validation_freq` must be .* a list"),
    "callbacks hold a class": (
        linear,
        given(callbacks=[keras.callbacks.Callback]),
        TypeError,
        "give an instance of this class",
    ),
    "unknown argument": (linear, given(epoch=3), TypeError, "unexpected keyword argument 'epoch'"),
    "one of two inputs": (two_inputs, given(), ValueError, r"expects 2 (named )?input"),
    "three of two inputs": (two_inputs, given(x=[X, X, X]), ValueError, r"expects 2 (named )?input"),
    "y for three of two outputs": (two_outputs, given(y=[Y, Y, Y]), ValueError, "different structures"),
    "outputs of different lengths": (two_outputs, given(y=[Y, Y[:5]]), ValueError, "'y' sizes: 20, 5"),
    "class_weight for two outputs": (
        two_outputs,
        given(y=[Y, Y], class_weight={0: 1.0}),
        ValueError,
        "`class_weight` is only supported",
    ),
    "x of objects": (linear, given(x=np.array([{}] * 20)), ValueError, "Invalid dtype: object"),
    "x a number": (linear, given(x=3), ValueError, "Unrecognized data type: x=3"),
    "y beside a PyDataset": (linear, {"x": Batches(), "y": Y}, ValueError, "`y` should not be passed"),
    "y beside a generator": (linear, {"x": (batch for batch in [(X, Y)]), "y": Y}, ValueError, "`y` should not be passed"),
    "a dataset of text": (linear, {"x": dataset().map(lambda x, y: ("a", y))}, ValueError, "[Ii]nvalid dtype|string"),
    "a schedule that returns nothing": (
        linear,
        given(callbacks=[keras.callbacks.LearningRateScheduler(lambda epoch, rate: None)]),
        ValueError,
        r"should be (a )?float",
    ),
}

# What Keras trips over by accident, or takes without a word: the last entry is the class of its error, None if it has none.
REFUSED_BY_FITCORE_ALONE: dict[str, tuple[Any, ...]] = {
    "no x": (linear, {}, ValueError, "`x` must be arrays, a dataset or a generator of batches. Received: x=None", KeyError),
    "no optimizer": (lambda: linear(optimizer=None), given(), ValueError, "`optimizer=` to `compile\\(\\)`", AttributeError),
    "hooks as callbacks": (
        linear,
        given(callbacks=[fitcore.Hook()]),
        TypeError,
        "hooks go into `hooks`. Received",
        AttributeError,
    ),
    "validation_freq 0": (linear, validated(validation_freq=0), ValueError, "Received: validation_freq=0", ZeroDivisionError),
    "no rows": (linear, given(x=X[:0], y=Y[:0]), ValueError, r"`x` holds no data: 0 .*=ndarray of shape \(0, 3\)", None),
    "empty dataset": (linear, {"x": dataset().take(0)}, ValueError, "`x` holds no data: 0 batches", None),
    "epochs negative": (linear, given(epochs=-1), ValueError, "`epochs` must be at least 0. Received: epochs=-1", None),
    "initial_epoch negative": (linear, given(initial_epoch=-1), ValueError, "`initial_epoch` must be at least 0", None),
    "batch_size 0": (linear, given(batch_size=0), ValueError, "`batch_size` must be at least 1. Received: batch_size=0", None),
    "steps_per_execution -1": (
        lambda: linear(steps_per_execution=-1),
        given(),
        ValueError,
        "`steps_per_execution` must be at least 1. Received: steps_per_execution=-1",
        None,
    ),
    "steps_per_epoch 0": (linear, given(steps_per_epoch=0), ValueError, "`steps_per_epoch` must be at least 1", None),
    "validation_split negative": (linear, given(validation_split=-0.1), ValueError, "`validation_split` must be in", None),
    "validation_split 1.5": (linear, given(validation_split=1.5), ValueError, "Received: validation_split=1.5", None),
    "validation_freq negative": (linear, validated(validation_freq=-1), ValueError, "`validation_freq`", None),
    "validation_steps 0": (linear, validated(validation_steps=0), ValueError, "`validation_steps` must be at least 1", None),
    "validation_batch_size 0": (
        linear,
        validated(validation_batch_size=0),
        ValueError,
        "`validation_batch_size` must be",
        None,
    ),
}

# What only fitcore takes.
REFUSED_OF_ITS_OWN: dict[str, Bad] = {
    "callbacks as hooks": (linear, given(hooks=[keras.callbacks.Callback()]), TypeError, "Keras callbacks go into `callbacks`"),
    "a number as hook": (linear, given(hooks=[7]), TypeError, "`hooks` must hold fitcore hooks. Received: 7 of type int"),
    "a lone hook": (linear, given(hooks=fitcore.Hook()), TypeError, "`hooks` must be a list"),
    "a hook's class": (linear, given(hooks=[fitcore.Hook]), TypeError, "`hooks` must hold fitcore hooks"),
    "record a string": (linear, given(record="step/loss"), TypeError, "`record` must be a list .* Received: 'step/loss'"),
    "record unknown": (linear, given(record=["step/lss"]), ValueError, r"`record` names \['step/lss'\].* 'step/loss'"),
    "max_traces 0": (linear, given(max_traces=0), ValueError, "`max_traces` must be at least 1"),
    "Reshuffle of a dataset": (linear, {"x": dataset(), "shuffle": fitcore.Reshuffle(0)}, ValueError, "`shuffle=Reshuffle"),
}


def outcome(fit: Callable[..., Any], build: Callable[[], keras.Model], arguments: dict[str, Any]) -> tuple[Any, bool]:
    """(what was raised or None, whether no step had run)."""
    model = build()
    optimizer = getattr(model, "optimizer", None)
    before = [weight.numpy() for weight in model.weights]
    error: BaseException | None = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit(model, verbose=0, **arguments)
    except Exception as raised:
        error = raised
    same = all(np.array_equal(weight, value) for weight, value in zip(model.weights, before, strict=True))
    return error, same and int(getattr(optimizer, "iterations", 0)) == 0


@pytest.mark.parametrize("name", [*REFUSED, *REFUSED_BY_FITCORE_ALONE, *REFUSED_OF_ITS_OWN])
def test_refused_before_any_step(name: str) -> None:
    build, arguments, kind, message, *keras_kind = (REFUSED | REFUSED_BY_FITCORE_ALONE | REFUSED_OF_ITS_OWN)[name]
    error, untouched = outcome(fitcore.fit, build, arguments)
    for each in (kind, *filter(None, keras_kind)):
        assert isinstance(error, each)
    with pytest.raises(kind, match=message):
        raise error
    assert untouched


@pytest.mark.parametrize("name", [*REFUSED, *REFUSED_BY_FITCORE_ALONE])
def test_keras_refuses_it_with(name: str) -> None:
    """The other half of the table: which class Keras raises, if any."""
    build, arguments, *rest = (REFUSED | REFUSED_BY_FITCORE_ALONE)[name]
    error, _ = outcome(keras.Model.fit, build, arguments)
    expected = rest[0] if name in REFUSED else rest[2]
    assert (None if error is None else type(error)) is expected


@pytest.mark.parametrize(
    ("build", "arguments"),
    [
        (sparse, given(y=np.full(20, 7))),
        (linear, given(y=np.ones((20, 3, 2), "float32"))),
        (linear, {"x": dataset().map(lambda x, y: (x, tf.debugging.check_numerics(y / 0.0, "no")))}),
    ],
    ids=["labels beyond the classes", "y of a rank too many", "a dataset that fails"],
)
def test_what_only_the_step_can_know(build: Any, arguments: dict[str, Any]) -> None:
    """Keras's class, and the weights as Keras leaves them."""
    left = {}
    for which, fit in {"keras": keras.Model.fit, "fitcore": fitcore.fit}.items():
        keras.utils.set_random_seed(1)
        keras.utils.clear_session()
        models: list[keras.Model] = []
        error, _ = outcome(fit, lambda: models.append(build()) or models[0], arguments)  # noqa: B023, called at once
        left[which] = (type(error), [weight.numpy().tobytes() for weight in models[0].weights])
    assert left["keras"][0] is tf.errors.InvalidArgumentError
    assert left["fitcore"] == left["keras"]


@pytest.mark.parametrize(
    ("model", "kind", "message"),
    [
        (7, TypeError, "`model` must be a Keras model. Received: model=7 of type int"),
        (layers.Dense(1), TypeError, "`model` must be a Keras model"),
        (None, TypeError, "of type NoneType"),
    ],
)
def test_not_a_model(model: Any, kind: type[Exception], message: str) -> None:
    for call in (fitcore.fit, fitcore.evaluate):
        with pytest.raises(kind, match=message):
            call(model, X, Y)


def test_a_class_with_a_loop_of_its_own_is_refused() -> None:
    """Running another loop than the one it brings would be wrong without a word."""

    class OwnLoop(keras.Sequential):
        def make_train_function(self, force: bool = False) -> Any:
            raise AssertionError("never called")

    model = OwnLoop([keras.Input((3,)), layers.Dense(1)])
    model.compile("adam", "mse")
    with pytest.raises(ValueError, match="OwnLoop overrides make_train_function"):
        fitcore.fit(model, X, Y, verbose=0)
    assert fitcore.evaluate(model, X, Y, verbose=0) >= 0


def test_evaluate_refuses() -> None:
    cases: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
        (uncompiled(), given(), ValueError, "compile"),
        (linear(), given(y=Y[:3]), ValueError, "'y' sizes: 3"),
        (linear(), given(batch_size=0), ValueError, "`batch_size` must be at least 1"),
        (linear(), given(batch_size="all"), TypeError, "`batch_size` must be an int"),
        (linear(), given(steps=0), ValueError, "`steps` must be at least 1"),
        (linear(), {"x": None}, ValueError, "`x` must be arrays"),
        (linear(), given(epochs=3), ValueError, "no such arguments. Received: {'epochs': 3}"),
        (linear(), given(callbacks=[7]), AttributeError, "`callbacks` must hold Keras callbacks. Received: 7"),
        (linear(steps_per_execution=0), given(), ValueError, "`steps_per_execution` must be at least 1"),
    ]
    for model, arguments, kind, message in cases:
        with pytest.raises(kind, match=message):
            fitcore.evaluate(model, verbose=0, **arguments)


def test_an_engine_refuses() -> None:
    with pytest.raises(TypeError, match="`loss` must be callable"):
        fitcore.Engine(linear(), loss="mse")  # type: ignore[arg-type]
    engine = fitcore.Engine(uncompiled(), loss=keras.losses.MeanSquaredError())
    with pytest.raises(ValueError, match="`optimizer`"):
        fitcore.fit(engine, X, Y, verbose=0)
    assert fitcore.evaluate(engine, X, Y, verbose=0)[0] > 0
