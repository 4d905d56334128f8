"""`noise=True` never ends a training that Keras makes, nor changes it; what it can't measure it says."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import fitcore
from fitcore.noise import GradientNoise, calls
from tests import models

X = np.random.default_rng(0).normal(size=(22, 4)).astype("float32")


class Scaled(layers.Layer):
    """A trainable scale: what is tried with it is in `scaled`."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones", name="scale")
        self.high = self.add_weight(shape=(), initializer="ones", trainable=False, name="high")
        self.calls = tf.Variable(0.0, trainable=False)
        self.draws = keras.random.SeedGenerator(4)
        self.generator = tf.random.Generator.from_seed(1)

    def call(self, x, training=None):
        return self.scaled(x)


class Clips(Scaled):
    def scaled(self, x):
        self.high.assign(0.95 * self.high + 0.05 * ops.max(ops.abs(x)))
        return ops.clip(x, -self.high, self.high) * self.scale


class Draws(Scaled):
    def scaled(self, x):
        return (x + keras.random.normal(ops.shape(x), seed=self.draws)) * self.scale


class DrawsOfTensorFlow(Scaled):
    def scaled(self, x):
        return (x + self.generator.normal(tf.shape(x))) * self.scale


class Counts(Scaled):
    def scaled(self, x):
        self.calls.assign_add(1.0)
        return x * self.scale / (1 + self.calls)


class ClipsItsWeight(Scaled):
    def scaled(self, x):
        self.scale.assign(ops.clip(self.scale, -0.9, 0.9))
        return x * self.scale


class CallsPython(Scaled):
    def scaled(self, x):
        return tf.ensure_shape(tf.py_function(lambda value: value * 2, [x], tf.float32), x.shape) * self.scale


class Branches(Scaled):
    @tf.function
    def call(self, x):
        if tf.reduce_sum(x) > 0:
            return x * self.scale
        return x * self.scale * 2


class Loops(Scaled):
    def scaled(self, x):
        return ops.while_loop(lambda i, h: i < 3, lambda i, h: (i + 1, ops.tanh(h * self.scale)), (0, x))[1]


class WholeBatches(Scaled):
    """Can't be called with fewer rows than a batch has."""

    def scaled(self, x):
        self.high.assign(ops.max(x))
        return tf.reshape(tf.reshape(x, (2, -1)), (2, 4)) * self.scale


SPLIT = {Clips: "changes something", Draws: "draws", DrawsOfTensorFlow: "draws", Counts: "changes something",
         ClipsItsWeight: "changes something", CallsPython: "changes something", Branches: "fallback ends in"}  # fmt: skip


def trained(fit: Any, *body: Any, batch_size: int = 8, **arguments: Any) -> tuple[dict[str, bytes], Any]:
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input(batch_shape=(2 if batch_size == 2 else None, 4)), *[b() for b in body], layers.Dense(1)]
    )
    model.compile("sgd", "mse")
    history = fit(model, X, X[:, :1], epochs=2, batch_size=batch_size, verbose=0, **arguments)
    return models.state(model), getattr(history, "noise", None)


def by_keras(model: keras.Model, *data: Any, **arguments: Any) -> Any:
    return model.fit(*data, **arguments)


@pytest.mark.parametrize("kind", [*SPLIT, Loops])
def test_layers_as_people_write_them(kind):
    expected, _ = trained(by_keras, kind)
    state, noise = trained(fitcore.fit, kind, noise=True)
    assert state == expected
    assert np.isfinite(noise.trace).all()
    (how,) = (how for path, how in noise.how.items() if path.endswith("/scale"))
    if kind in SPLIT:
        assert how.startswith("split: ")
        assert SPLIT[kind] in how
        with pytest.raises(ValueError, match=f"`estimator='per_example'`: .*/scale can't be measured.*{SPLIT[kind]}"):
            trained(fitcore.fit, kind, noise=GradientNoise("per_example"))
    else:
        assert "fallback" in how


def spectral(kind: Any) -> Any:
    return lambda: layers.SpectralNormalization(kind())


@pytest.mark.parametrize("estimator", ["auto", "split"])
def test_a_weight_that_is_assigned_before_it_is_used(estimator):
    body = [spectral(lambda: layers.Dense(4, "relu"))]
    expected, _ = trained(by_keras, *body)
    state, noise = trained(fitcore.fit, *body, noise=GradientNoise(estimator))
    assert state == expected
    assert np.isfinite(noise.trace).all()
    if estimator == "auto":
        assert set(noise.how.values()) == {"Dense: exact"}


class Signed(Scaled):
    def scaled(self, x):
        self.scale.assign(0.9 * ops.sign(self.scale))
        return x * self.scale


class Plain(Scaled):
    def scaled(self, x):
        return x * self.scale


def test_by_splitting_its_gradient_is_that_of_the_training():
    """Where it was assigned, and not through the assignment, where it would be zero."""

    def measured(kind: Any, noise: GradientNoise) -> Any:
        keras.utils.clear_session()
        keras.utils.set_random_seed(0)
        layer = kind()
        model = keras.Sequential([keras.Input((4,)), layer, layers.Dense(1)])
        layer.scale.assign([0.9] * 4)
        model.compile("sgd", "mse")
        found = fitcore.fit(model, X[:20], X[:20, :1], batch_size=20, shuffle=False, verbose=0, noise=noise).noise
        return next(curve for name, curve in found.layers.items() if "dense" not in name)

    exact, split = measured(Plain, GradientNoise("per_example")), measured(Signed, GradientNoise("split"))
    assert split.batch_grad_norm_sq == pytest.approx(exact.batch_grad_norm_sq, rel=1e-4)


def test_what_can_be_had_from_whole_batches_alone_is_not_measured():
    expected, _ = trained(by_keras, WholeBatches, batch_size=2)
    state, noise = trained(fitcore.fit, WholeBatches, batch_size=2, noise=True)
    assert state == expected
    assert "not measured" in noise.how["sequential/whole_batches/scale"]
    assert noise.how["sequential/dense/kernel"] == "Dense: exact"
    assert np.isnan(noise.trace).all()
    assert np.isfinite(noise.layers["sequential/dense"].trace).all()
    with pytest.raises(ValueError, match=r"`estimator='split'`: the model can't be run on a part of a batch alone: .*eshape"):
        trained(fitcore.fit, WholeBatches, batch_size=2, noise=GradientNoise("split"))


def test_rules_that_end_in_an_error_lead_to_splits(monkeypatch):
    monkeypatch.setattr(calls, "RULES", dict(calls.RULES))

    @fitcore.per_example(Loops, weights=("scale",))
    def gradients(layer, inputs, delta):
        raise RuntimeError("not today")

    expected, _ = trained(by_keras, Loops)
    state, noise = trained(fitcore.fit, Loops, noise=True)
    assert state == expected
    assert noise.how["sequential/loops/scale"] == "split: Loops: rule of its own ends in RuntimeError: not today"
    assert np.isfinite(noise.trace).all()
    with pytest.raises(ValueError, match=r"`estimator='per_example'`: sequential/loops/scale .* not today"):
        trained(fitcore.fit, Loops, noise=GradientNoise("per_example"))


@pytest.mark.parametrize("more", [{}, {"hessian_every": 1}, {"every": 2}])
def test_a_last_batch_of_fewer_rows_than_parts(more):
    """Its parts would have no rows, which not every kernel can do: oneDNN's convolution with strides then has a wrong shape."""
    images = np.random.default_rng(0).normal(size=(9, 8, 8, 2)).astype("float32")

    def run(noise: Any) -> Any:
        keras.utils.clear_session()
        keras.utils.set_random_seed(1)
        body = [layers.Conv2D(4, 3, strides=2, padding="same"), layers.BatchNormalization(), layers.ReLU(),
                layers.Conv2DTranspose(3, 3, strides=2, padding="same", activation="softmax")]  # fmt: skip
        model = keras.Sequential([keras.Input((8, 8, 2)), *body])
        model.compile("adam", "sparse_categorical_crossentropy")
        history = fitcore.fit(model, images, np.zeros((9, 8, 8)), epochs=2, batch_size=4, verbose=0, noise=noise)
        return models.state(model), getattr(history, "noise", None)

    state, noise = run(GradientNoise("split", **more))
    assert state == run(False)[0]
    measured = noise.batch_size == 4
    assert np.isfinite(noise.trace[measured]).all()
    assert np.isnan(noise.trace[~measured]).all()
    assert np.isfinite(noise.batch_grad_norm_sq).all()
    if more.get("hessian_every"):
        assert np.isfinite(noise.hessian.trace).tolist() == [True, True, False] * 2


def test_a_loss_with_a_state_of_its_own():
    class Centered(keras.losses.Loss):
        def __init__(self):
            super().__init__()
            self.center = tf.Variable(0.0, trainable=False)

        def call(self, y, p):
            self.center.assign(0.5 * self.center + 0.5 * tf.reduce_mean(tf.stop_gradient(p)))
            return tf.reduce_mean((p - y - self.center) ** 2, -1)

    def run(**arguments: Any) -> Any:
        keras.utils.clear_session()
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((4,)), layers.Dense(1)])
        model.compile("sgd", Centered())
        fitcore.fit(model, X, X[:, :1], epochs=2, batch_size=4, verbose=0, **arguments)
        return models.state(model), float(model.loss.center)

    assert run(noise=GradientNoise("split", splits=2)) == run()


def test_a_row_with_a_nan_spreads_as_without_noise():
    x = X.copy()
    x[13, 2] = np.nan

    def run(fit: Any, **arguments: Any) -> list[list[bool]]:
        keras.utils.set_random_seed(11)
        body = [layers.Dense(5, "relu"), layers.Dense(3, "softmax")]
        model = keras.Sequential([keras.Input((4,)), *body])
        model.compile(keras.optimizers.SGD(0.02), "sparse_categorical_crossentropy")
        fit(model, x, np.arange(22) % 3, epochs=1, batch_size=4, verbose=0, **arguments)
        return [np.isnan(w.numpy()).tolist() for w in model.weights]

    assert run(fitcore.fit, noise=True) == run(fitcore.fit)


def test_of_all_rows_at_once_the_gradient_is_known(tmp_path):
    """A batch that is all the data has their gradient: nothing is to be taken off for noise, and no scale is below zero."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    y = X[:, :1] + np.random.default_rng(1).normal(size=(22, 1)).astype("float32")
    noise = GradientNoise(directory=tmp_path)
    found = fitcore.fit(model, X, y, batch_size=22, epochs=60, verbose=0, noise=noise).noise
    assert found.population == 22
    np.testing.assert_allclose(found.data_grad_norm_sq, found.batch_grad_norm_sq, rtol=1e-6)
    assert (found.grad_norm_sq[-20:] < 0).all()  # trained to the data's minimum
    assert not (found.scale < 0).any()
    events = EventAccumulator(str(tmp_path / "train"), {"tensors": 0}).Reload()
    written = [float(tf.make_ndarray(point.tensor_proto)) for point in events.Tensors("noise/scale")]
    assert written == pytest.approx(found.scale[np.isfinite(found.scale)].tolist())
    unknown = fitcore.fit(model, tf.data.Dataset.from_tensor_slices((X, y)).batch(22), epochs=20, verbose=0, noise=True).noise
    assert unknown.population == np.inf
    assert (unknown.ratio.denominator < 0).all()
    assert np.isnan(unknown.scale).all()
