"""State outside of Keras's lists: it is saved with a fit, put back after plans are measured, or refused before training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from cut_fits import EPOCH, arrays, compiled
from cuts import Case, Cut, assert_survives
from models import data
from outside_state import MODELS, iterator, queue, stepping

import fitcore
from fitcore import plans
from fitcore.checkpoint import CheckpointError
from fitcore.reachable import reach


@pytest.mark.parametrize("name", MODELS)
def test_it_is_saved(name: str, tmp_path: Path) -> None:
    assert_survives(Case(lambda folder: arrays(model=MODELS[name](), epochs=2), tmp_path, fresh=True), [3, EPOCH + 1])


@pytest.mark.parametrize("name", MODELS)
def test_it_is_put_back_after_plans_are_measured(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured trains far enough to be seen; whatever is then chosen, the training begins where it would have."""
    x, y = data(20)
    measured = []
    measure = plans._measure
    monkeypatch.setattr(plans, "_measure", lambda *given: measured.append(measure(*given)) or measured[-1])
    monkeypatch.setattr(plans, "remembered", lambda key: None)
    monkeypatch.setattr(plans, "_remember", lambda key, measured: None)

    def end(fit: Any) -> np.ndarray:
        keras.utils.clear_session()
        keras.utils.set_random_seed(1)
        model = MODELS[name]()
        fit(model)
        return np.concatenate([weight.ravel() for weight in model.get_weights()])

    want = end(lambda model: model.fit(x, y, batch_size=4, epochs=2, verbose=0))
    got = end(lambda model: fitcore.fit(model, x, y, batch_size=4, epochs=2, numerics="fast"))
    assert len(measured) == 1
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("make", "kind"), [(queue, "QueueDequeueV2"), (iterator, "IteratorGetNext")])
def test_what_cannot_be_saved_is_refused_before_training(make: Any, kind: str, tmp_path: Path) -> None:
    model = stepping(make())
    before = [np.array(weight) for weight in model.get_weights()]  # copies: a step may write into what was handed out
    with pytest.raises(CheckpointError, match=rf"`checkpoint`: the training step changes model\.extra.*{kind}"):
        Case(lambda folder: arrays(model=model), tmp_path, seeded=False).fit("refused", None, {"every": "1 epoch"})
    assert all((a == b).all() for a, b in zip(before, model.get_weights()))
    fitcore.fit(model, *data(20), batch_size=4, verbose=0)  # without a checkpoint it trains
    assert any((a != b).any() for a, b in zip(before, model.get_weights()))


def test_plans_are_not_measured_where_it_cannot_be_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "remembered", lambda key: None)
    monkeypatch.setattr(plans, "_remember", lambda key, measured: None)
    x, y = data(20)
    ends = []
    for numerics in ("exact", "fast"):
        keras.utils.set_random_seed(1)
        model = stepping(queue())
        fitcore.fit(model, x, y, batch_size=4, epochs=2, numerics=numerics)
        ends.append(np.concatenate([weight.ravel() for weight in model.get_weights()]))
    np.testing.assert_allclose(*ends, rtol=1e-5)


class Averaging(keras.callbacks.Callback):
    """Pulls the weights to their running mean at each epoch's end. It makes its variables when the first epoch has ended."""

    def __init__(self) -> None:
        super().__init__()
        self.mean: list[Any] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if not self.mean:
            self.mean = [tf.Variable(weight) for weight in self.model.get_weights()]
        for mean, weight in zip(self.mean, self.model.weights):
            mean.assign(0.5 * mean + 0.5 * weight.value)
            weight.assign(0.5 * mean + 0.5 * weight.value)


class AveragingFromTheStart(Averaging):
    def on_train_begin(self, logs: Any = None) -> None:
        self.mean = [tf.Variable(tf.zeros(weight.shape)) for weight in self.model.weights]


def test_variables_of_a_callback(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    model = compiled()
    case = Case(lambda folder: arrays(model=model, callbacks=[AveragingFromTheStart()]), tmp_path)
    assert_survives(case, [EPOCH + 2, 2 * EPOCH + 3])
    assert [each for each in recwarn if "may differ" in str(each.message)] == []


def test_a_variable_that_was_made_later_is_named(tmp_path: Path) -> None:
    case = Case(lambda folder: arrays(callbacks=[Averaging()]), tmp_path)
    with pytest.raises(Cut):
        case.fit("cut", EPOCH + 3, {"every": "2 steps"})
    with pytest.warns(UserWarning, match=r"callbacks\[0\]\.mean\[0\]' was saved, and isn't there now"):
        case.fit("cut", None, {"every": "2 steps"})


def test_python_functions_in_the_step_are_named(tmp_path: Path) -> None:
    model = stepping(lambda mean: tf.reshape(tf.py_function(lambda: 0.5, [], tf.float32), []))
    with pytest.warns(UserWarning, match="tf.py_function"), pytest.raises(Cut):
        Case(lambda folder: arrays(model=model), tmp_path, seeded=False).fit("cut", 3, {"every": "2 steps"})


# --- reaching -------------------------------------------------------------------------------------------------------------


class Holder:
    shared = tf.Variable(1.0, name="of the class")

    def __init__(self) -> None:
        self.itself = self
        self.plain = {"a": [tf.Variable(2.0)], 3: (tf.Variable(3.0),)}
        inner = tf.Variable(4.0)
        self.function = lambda: inner
        self.compiled = tf.function(lambda: inner)
        self.keras = keras.optimizers.Adam()

    @property
    def asked(self) -> Any:
        raise AssertionError("a property is not asked")


def test_ways_are_named_and_do_not_end_in_a_circle() -> None:
    found = reach({"model": Holder()})
    ways = [way for way, _ in found.variables]
    plain = {"model.plain['a'][0]", "model.plain[1][0]"}
    assert {"model.Holder.shared", "model.function.inner", "model.keras.variables[0]"} | plain <= {*ways}
    assert len(ways) == len({id(variable) for _, variable in found.variables})
    assert found.whole


def test_too_much_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fitcore.reachable.MOST", 100)
    assert not reach({"model": [[] for _ in range(1000)]}).whole
