"""`explain` says what fit then does."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import fitcore


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), keras.layers.Dropout(0.5), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    return model


X, Y = np.ones((100, 3), "float32"), np.ones((100, 1), "float32")


class Watcher(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        pass


class Seventh(fitcore.Hook):
    when = fitcore.every(7)


def lines(text):
    """The lines of an explanation by name; what goes on in the next line belongs to it."""
    found = re.findall(r"^  (\w+) +(.*(?:\n {14}.*)*)", text, re.MULTILINE)
    return dict(found) | {"": text.splitlines()[0]}


def test_says_what_fit_then_does_and_changes_nothing(model):
    before = [v.numpy() for v in model.variables]
    said = lines(fitcore.explain(model, X, Y, epochs=3, hooks=[Seventh()], validation_split=0.2))
    assert all(np.array_equal(v, w) for v, w in zip(before, [v.numpy() for v in model.variables]))
    assert not hasattr(model, "history")
    assert said[""].endswith("3 epochs of 3 steps")
    assert "80 rows" in said["data"]
    assert "same permutation in every epoch" in said["data"]
    assert "the last 0.2 of the rows, after every epoch" in said["validation"]
    assert "every 7 steps: hook Seventh" in said["calls"]
    assert "traces one more" in said["traces"]
    assert said["exact"].startswith(f"yes: bit-identical to model.fit of Keras {keras.__version__}")

    history = fitcore.fit(model, X, Y, epochs=3, hooks=[Seventh()], validation_split=0.2, verbose=0)
    assert history.account == history.account | {"steps": 9, "calls": 4, "traces": 2}  # 3, 3, and 1 + 2 around step 7
    assert "has its program ready" in lines(fitcore.explain(model, X, Y, validation_split=0.2))["traces"]


def test_names_who_needs_the_host_at_each_step(model):
    callbacks = [Watcher(), keras.callbacks.EarlyStopping("loss")]
    said = lines(fitcore.explain(model, X, Y, callbacks=callbacks))
    assert said["calls"].startswith("up to 1 step per")
    assert "every 1 step: Watcher overrides a batch method" in said["calls"]
    assert said["host"] == "at each step Watcher; at an epoch's ends EarlyStopping"
    free = lines(fitcore.explain(model, X, Y))
    assert "an epoch's 4 steps" in free["calls"]
    assert free["host"] == "at each step nothing; after a call nothing; at an epoch's ends nothing"


def test_says_why_a_fit_is_not_exact(model):
    said = lines(fitcore.explain(model, X, Y, shuffle=fitcore.Reshuffle(5)))["exact"]
    assert said.startswith("no: shuffle=Reshuffle(seed=5) visits")
    engine = fitcore.Engine(model, optimizer=keras.optimizers.SGD(), loss=keras.losses.MeanSquaredError())
    assert "one by one" in lines(fitcore.explain(engine, X, Y))["exact"]


def test_data_of_unknown_size_and_generators(model):
    rows = tf.data.Dataset.from_tensor_slices((X, Y)).filter(lambda x, y: True).batch(32)
    said = lines(fitcore.explain(model, rows, shuffle=False))
    assert "as many steps as the data turn out to hold" in said[""]
    assert "unknown size" in said["data"]
    batches = (batch for batch in [(X, Y)] * 3)
    assert "1 epoch of 3 steps" in fitcore.explain(model, batches, steps_per_epoch=3)
    assert len(list(batches)) == 3  # none was taken


def test_refuses_what_fit_refuses(model):
    with pytest.raises(ValueError, match="epochs"):
        fitcore.explain(model, X, Y, epochs=-1)
    with pytest.raises(ValueError, match=r"cardinality|same number|sizes"):
        fitcore.explain(model, X, Y[:50])
