"""The gradient noise as fit measures it: right, without a trace in the training, and honest where it can't be known."""

import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import fitcore
from benchmarks.noise_accuracy import split_error
from benchmarks.noise_cases import NOISE_CASES
from benchmarks.noise_reference import compare
from fitcore.noise import GradientNoise, calls, examples
from tests import models

ROOT = pathlib.Path(__file__).parent.parent
FAST = ("dense", "conv2d", "layer_norm", "batch_norm", "sample_weights", "shared_layers", "tied_weights", "partial_batch")
SLOW = ("attention", "lstm_masked", "lstm_backwards_dropout", "gru", "simple_rnn", "separable_conv", "fallback_recurrent")
LATER = [pytest.param(name, marks=pytest.mark.slow) for name in SLOW]


@pytest.mark.parametrize("name", [*FAST, *LATER])
def test_agrees_with_one_backward_pass_per_example(name):
    keras.config.set_floatx("float64")
    assert compare(NOISE_CASES[name]).error < 1e-6


@pytest.mark.parametrize("name", ["dense", "conv2d"])
def test_so_does_the_fallback(name, monkeypatch):
    keras.config.set_floatx("float64")
    monkeypatch.setattr(calls, "RULES", {})
    compared = compare(NOISE_CASES[name])
    assert all("fallback" in how for how in compared.how.values())
    assert compared.error < 1e-6


@pytest.mark.parametrize("name", ["dense", "regularized"])
def test_splitting_agrees_with_averages_of_them(name):
    keras.config.set_floatx("float64")
    assert split_error(NOISE_CASES[name]) < 1e-6


def trained(build, noise, x=None, y=None, **arguments):
    """(all bytes that training changes and the history, the noise) of a fresh model; random data unless given."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(3)
    if x is None:
        x, y = models.data(20)
    model = build()
    history = fitcore.fit(model, x, y, **({"batch_size": 5, "verbose": 0} | arguments), noise=noise)
    logs = {name: np.asarray(values).tobytes() for name, values in history.history.items()}
    return (models.state(model), logs), getattr(history, "noise", None)


def measured(build, noise, **arguments):
    """The noise, after showing that measuring it changed nothing."""
    plain, _ = trained(build, False, **arguments)
    watched, found = trained(build, noise, **arguments)
    assert plain == watched
    return found


@pytest.mark.parametrize("name", ["dropout", "regularized", *(pytest.param(n, marks=pytest.mark.slow) for n in (
    "conv2d", "batch_norm", "embedding", "lstm_backwards_dropout", "attention", "fallback", "partial_batch"))])  # fmt: skip
@pytest.mark.parametrize("estimator", ["auto", "split"])
def test_measuring_leaves_no_trace(name, estimator):
    def run(noise):
        keras.utils.clear_session()
        keras.utils.set_random_seed(3)
        model, arguments = NOISE_CASES[name].build()
        model.compile("adam", model.loss)
        history = fitcore.fit(model, **{"batch_size": 6} | arguments, epochs=2, verbose=0, noise=noise).history
        return models.state(model), history

    assert run(False) == run(GradientNoise(estimator=estimator, splits=2))


def test_what_history_has():
    noise = measured(models.noisy, GradientNoise(splits=2), epochs=2)
    assert noise.step.tolist() == list(range(8))
    assert noise.batch_size.tolist() == [5] * 8
    assert sorted(noise.layers) == ["sequential/batch_normalization", "sequential/dense", "sequential/dense_1"]
    for quantity in ("trace", "grad_norm_sq", "batch_grad_norm_sq"):
        total = sum(getattr(layer, quantity) for layer in noise.layers.values())
        np.testing.assert_allclose(getattr(noise, quantity), total)
    np.testing.assert_allclose(noise.grad_norm_sq, noise.batch_grad_norm_sq - noise.trace / 5)
    ratio = noise.over(slice(4))
    assert ratio.numerator == pytest.approx(noise.trace[:4].mean())
    assert noise.interval.shape == (8, 2)
    assert "statistics taken as constants" in noise.how["sequential/batch_normalization/gamma"]
    assert noise.how["sequential/dense/kernel"] == "Dense: exact"


def test_steps_left_out_and_layers_summed_up():
    every = measured(models.noisy, True)
    some = measured(models.noisy, GradientNoise(every=3, per_layer=False))
    assert some.step.tolist() == [0, 3]
    assert np.isfinite(trained(models.noisy, GradientNoise(every=3))[1].per_step(0, 4)["noise/trace"]).tolist() == [1, 0, 0, 1]
    np.testing.assert_allclose(some.trace, every.trace[[0, 3]])
    assert not some.layers


def test_a_batch_of_one_has_no_variance():
    noise = measured(models.linear, True, x=models.data(9)[0], y=models.data(9)[1], batch_size=4)
    assert noise.batch_size.tolist() == [4, 4, 1]
    assert np.isnan(noise.trace[2])
    assert np.isfinite(noise.trace[:2]).all()
    assert noise.weights.tolist() == [3, 3, 0]
    alone = measured(models.linear, True, batch_size=1)
    assert np.isnan(alone.scale).all()
    assert alone.undetermined.all()


def test_nan_gradients_are_recorded_and_measuring_goes_on():
    x, y = models.data(20)
    x[7] = np.nan  # in the second batch
    noise = measured(lambda: models.linear(optimizer=NaNProof(0.01)), True, x=x, y=y, shuffle=False)
    assert np.isnan(noise.trace).tolist() == [False, True, False, False]
    assert np.isfinite(noise.ratio.numerator).all()


class NaNProof(keras.optimizers.SGD):
    """Takes NaN gradients for zero."""

    def update_step(self, gradient, variable, learning_rate):
        super().update_step(ops.nan_to_num(gradient), variable, learning_rate)


@pytest.mark.parametrize("optimizer", [lambda: keras.optimizers.Adam(loss_scale_factor=64.0),
                                       lambda: keras.optimizers.Adam(gradient_accumulation_steps=2)])  # fmt: skip
def test_a_loss_scale_is_taken_out_and_micro_steps_are_steps(optimizer):
    plain = measured(models.linear, True, shuffle=False)
    other = measured(lambda: models.linear(optimizer=optimizer()), True, shuffle=False)
    assert len(other.trace) == 4
    assert other.trace[0] == pytest.approx(plain.trace[0], rel=1e-5)
    assert other.grad_norm_sq[0] == pytest.approx(plain.grad_norm_sq[0], rel=1e-5)


def test_mixed_precision():
    def build():
        keras.config.set_dtype_policy("mixed_float16")
        model = keras.Sequential([keras.Input((3,)), layers.Dense(1, kernel_initializer="ones")])
        model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01), initial_scale=16.0), "mse")
        return model

    def in_float32():
        model = keras.Sequential([keras.Input((3,)), layers.Dense(1, kernel_initializer="ones")])
        model.compile("sgd", "mse")
        return model

    half = measured(build, True, shuffle=False)
    keras.config.set_dtype_policy("float32")
    assert half.trace[0] == pytest.approx(trained(in_float32, True, shuffle=False)[1].trace[0], rel=1e-2)


def test_regularization_moves_the_gradient_and_not_its_noise():
    def build(**options):
        model = keras.Sequential([keras.Input((3,)), layers.Dense(1, kernel_initializer="ones", **options)])
        model.compile("sgd", "mse")
        return model

    without = trained(build, True, shuffle=False)[1]
    for noise in (True, GradientNoise("split", splits=5)):
        found = measured(lambda: build(kernel_regularizer=keras.regularizers.L2(0.5)), noise, shuffle=False)
        assert found.trace[0] == pytest.approx(without.trace[0], rel=1e-4)
        assert found.batch_grad_norm_sq[0] == pytest.approx(without.batch_grad_norm_sq[0], rel=1e-4)
    found = measured(lambda: build(kernel_regularizer=keras.regularizers.L2(0.5)), True, shuffle=False)
    assert found.applied_grad_norm_sq[0] != pytest.approx(found.batch_grad_norm_sq[0], rel=0.01)


@pytest.mark.parametrize("reduction", ["sum", "mean_with_sample_weight"])
def test_other_reductions(reduction):
    def build():
        return models.linear(loss=keras.losses.MeanSquaredError(reduction=reduction), optimizer=keras.optimizers.SGD(1e-4))

    exact = measured(build, True, shuffle=False)
    split = measured(build, GradientNoise("split", splits=5), shuffle=False)  # five rows in five parts: the same units
    np.testing.assert_allclose(split.trace, exact.trace, rtol=1e-4)
    np.testing.assert_allclose(split.batch_grad_norm_sq, exact.batch_grad_norm_sq, rtol=1e-4)


@pytest.mark.parametrize("rows", [40, 39])  # whole batches, and a last one of another size
def test_some_of_the_rows_are_enough(rows):
    def build():
        inner = [layers.Reshape((6, 1)), layers.Conv1D(2, 3, activation="tanh"), layers.Flatten(), layers.Dense(1)]
        model = keras.Sequential([keras.Input((6,)), *inner])
        model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse")
        return model

    random = np.random.default_rng(0)
    x, y = random.normal(size=(rows, 6)).astype("float32"), random.normal(size=(rows, 1)).astype("float32")
    run = lambda noise, keep: measured(build, noise, x=x[keep], y=y[keep], batch_size=20, shuffle=False)  # noqa: E731
    whole, some = run(True, slice(None)), run(GradientNoise(examples=7), slice(None))
    for layer in ("sequential/conv1d", "sequential/dense"):  # every third row of the first batch of 20: rows 0, 3, ..., 18
        assert some.layers[layer].batch_grad_norm_sq == pytest.approx(whole.layers[layer].batch_grad_norm_sq)
    assert some.layers["sequential/dense"].trace == pytest.approx(whole.layers["sequential/dense"].trace)
    g = some.layers["sequential/conv1d"].trace[0] / whole.layers["sequential/conv1d"].trace[0]
    assert 0.2 < g < 5
    assert g != pytest.approx(1, rel=1e-3)
    rows_said = "7 of 20 rows" if rows == 40 else "at most 7 rows of a batch"
    assert [rows_said in some.how[f"sequential/{layer}/kernel"] for layer in ("conv1d", "dense")] == [True, False]
    everything = run(GradientNoise(examples=20), slice(None))
    assert everything.trace == pytest.approx(whole.trace)
    if rows == 40:
        assert "rows" not in str(everything.how)


def test_the_full_noise_scale():
    noise = measured(models.noisy, GradientNoise(hessian_every=2), epochs=2, batch_size=10)
    assert noise.hessian_step.tolist() == [0, 2]
    assert noise.step.tolist() == [0, 1, 2, 3]
    assert np.isfinite([noise.hessian.trace, noise.hessian.norm]).all()
    assert noise.hessian.ratio.numerator[1] == pytest.approx(np.average(noise.hessian.trace, weights=[0.99, 1]))


def test_long_computations_run_in_chunks_of_rows(monkeypatch):
    whole = measured(models.noisy, True).trace
    monkeypatch.setattr(examples, "CHUNK_BYTES", 100)
    np.testing.assert_allclose(measured(models.noisy, True).trace, whole, rtol=1e-4)
    keras.config.set_floatx("float64")
    assert compare(NOISE_CASES["conv2d"]).error < 1e-6
    assert compare(NOISE_CASES["fallback"]).error < 1e-6


class InTheLoss(keras.Model):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return super().compute_loss(x, y, y_pred, sample_weight) + ops.mean(ops.square(ops.matmul(x, self.layers[1].kernel)))


class Folded(layers.Layer):
    """Puts positions among the rows: a row of its Dense is no example."""

    def __init__(self):
        super().__init__()
        self.inner = layers.Dense(2)

    def build(self, shape):
        self.inner.build((None, 1))

    def call(self, inputs):
        return ops.reshape(self.inner(ops.reshape(inputs, (-1, 1))), (-1, 6))


def in_the_loss():
    inputs = keras.Input((3,))
    model = InTheLoss(inputs, layers.Dense(1)(inputs))
    model.compile("sgd", "mse")
    return model


def folded():
    model = keras.Sequential([keras.Input((3,)), Folded(), layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


def test_weights_used_past_their_layer_are_split():
    noise = measured(in_the_loss, GradientNoise(splits=2))
    assert noise.how["dense/kernel"] == "split: used outside any layer's call"
    assert noise.how["dense/bias"] == "Dense: exact"
    assert np.isfinite(noise.trace).all()
    with pytest.raises(ValueError, match="outside any layer's call"):
        trained(in_the_loss, GradientNoise("per_example"))


def test_rows_that_are_no_examples_are_never_taken_for_them():
    noise = measured(folded, GradientNoise(splits=2))
    assert noise.how["sequential/folded/dense/kernel"].startswith("split: ")
    unknown_size = measured(folded, GradientNoise(splits=2), x=models.data(19)[0], y=models.data(19)[1])
    assert np.isnan(unknown_size.layers["sequential/folded/dense"].trace).all()
    assert np.isfinite(unknown_size.layers["sequential/dense_1"].trace[:3]).all()


def test_frozen_and_useless_weights():
    def build():
        model = models.linear()
        model.trainable = False
        model.compile("sgd", "mse")
        return model

    noise = measured(build, True)
    assert noise.trace.tolist() == [0, 0, 0, 0]


def test_a_module_that_is_no_keras_model_is_split_and_its_state_put_back():
    class Counting(tf.Module):
        def __init__(self):
            super().__init__()
            self.w, self.calls = tf.Variable(tf.ones([3, 1])), tf.Variable(0, trainable=False)

        def __call__(self, x):
            self.calls.assign_add(1)
            return tf.matmul(x, self.w)

    model = Counting()
    engine = fitcore.Engine(model, optimizer=keras.optimizers.SGD(0.1), loss=keras.losses.MeanSquaredError())
    noise = fitcore.fit(engine, *models.data(20), batch_size=5, verbose=0, noise=True).noise
    assert model.calls.numpy() == 4
    assert np.isfinite(noise.trace).all()


class Scale(layers.Layer):
    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones")

    def call(self, inputs):
        return inputs * self.scale


def test_a_rule_of_ones_own(monkeypatch):
    def build():
        model = keras.Sequential([keras.Input((3,)), Scale(), layers.Dense(1, kernel_initializer="ones")])
        model.compile("sgd", "mse")
        return model

    monkeypatch.setattr(calls, "RULES", dict(calls.RULES))
    by_fallback = trained(build, True)[1]
    assert by_fallback.how["sequential/scale/variable"] == "Scale: vectorized fallback"

    @fitcore.per_example(Scale, weights=("scale",))
    def scale_gradients(layer, inputs, delta):
        return {"scale": inputs * delta}

    by_rule = measured(build, True)
    assert by_rule.how["sequential/scale/variable"] == "Scale: rule of its own"
    np.testing.assert_allclose(by_rule.trace, by_fallback.trace, rtol=1e-5)


def test_bad_arguments():
    for bad in (
        {"estimator": "exact"},
        {"every": 0},
        {"splits": 1},
        {"examples": 1},
        {"hessian_every": -1},
        {"decay": 0.0},
        {"confidence": 1.0},
    ):
        with pytest.raises(ValueError, match=next(iter(bad))):
            GradientNoise(**bad)
    with pytest.raises(ValueError, match="tap"):
        fitcore.per_example(Scale, weights=("scale",), tap="input")
    with pytest.raises(ValueError, match="run_eagerly"):
        trained(lambda: models.linear(run_eagerly=True), True)


class OwnStep(keras.Model):
    def train_step(self, data):
        return {"loss": ops.sum(data[0])}


def test_a_train_step_of_ones_own_is_refused():
    inputs = keras.Input((3,))
    model = OwnStep(inputs, layers.Dense(1)(inputs))
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="train_step of its own"):
        fitcore.fit(model, *models.data(20), noise=True)


def test_signal_to_noise_of_each_weight():
    keras.config.set_floatx("float64")
    random = np.random.default_rng(0)
    x = random.normal(size=(4000, 3)) * [1.0, 2.0, 1.0]
    y = x[:, :1] + 0.5 * random.normal(size=(4000, 1))
    model = keras.Sequential([keras.Input((3,)), layers.Dense(1, kernel_initializer="zeros"), layers.BatchNormalization()])
    model.layers[1].trainable = False
    model.compile("sgd", "mse")
    before = models.state(model)
    found = fitcore.gradient_snr(model, x, y, batch_size=20)
    assert models.state(model) == before
    scale = 1 / np.sqrt(1 + model.layers[1].epsilon)
    g = -2 * scale * y * np.concatenate([x, np.ones((4000, 1))], axis=1)  # at weights zero
    expected = g.mean(0) ** 2 / g.var(0, ddof=1) * 3997 / 3999 - 1 / 4000
    np.testing.assert_allclose(found["sequential/dense/kernel"][:, 0], expected[:3], rtol=1e-6)
    np.testing.assert_allclose(found["sequential/dense/bias"], expected[3:], rtol=1e-6)
    with pytest.raises(ValueError, match="rows"):
        fitcore.gradient_snr(model, x[:3], y[:3])


def test_tensorboard_events(tmp_path):
    noise = measured(models.noisy, GradientNoise(directory=tmp_path), epochs=3)
    events = EventAccumulator(str(tmp_path / "train"), size_guidance={"tensors": 0})
    events.Reload()
    curve = {event.step: tf.make_ndarray(event.tensor_proto).item() for event in events.Tensors("noise/trace")}
    assert list(curve) == list(range(1, 13))
    np.testing.assert_allclose(list(curve.values()), noise.ratio.numerator, rtol=1e-5)
    assert "noise/trace/sequential/dense" in events.Tags()["tensors"]
    assert events.summary_metadata["custom_scalars__config__"].plugin_data.plugin_name == "custom_scalars"


def test_explain_says_what_will_be_measured():
    class Unruled(Scale):
        def call(self, inputs):
            return inputs + self.scale

    model = keras.Sequential([keras.Input((3,)), Unruled(), layers.Dense(1)])
    model.compile("sgd", "mse")
    said = fitcore.explain(model, *models.data(20), noise=GradientNoise(every=2))
    assert (
        "every 2 steps, per example; layers with a rule: Dense; others, row by row, or else batches split into 4: Unruled"
        in said
    )
    assert "noise" not in fitcore.explain(model, *models.data(20)).split()
    with pytest.raises(TypeError, match="noise"):
        fitcore.fit(model, *models.data(20), noise="yes")


def test_a_picture():
    figure = pytest.importorskip("matplotlib.figure").Figure()
    noise = measured(models.noisy, True, epochs=3)
    axes = fitcore.noise.plot(noise, figure.subplots(), layers=True)
    assert [line.get_label() for line in axes.lines] == ["noise scale", "batch size", *noise.layers]
    figure.canvas.draw()


@pytest.mark.slow
def test_an_unmodified_script(tmp_path):
    (tmp_path / "script.py").write_text(
        "import keras, numpy as np\n"
        "model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])\n"
        "model.compile('sgd', 'mse')\n"
        "model.fit(np.ones((8, 3)), np.arange(8.0), batch_size=4, verbose=0)\n"
    )
    command = [sys.executable, "-m", "fitcore", "--logdir", str(tmp_path / "logs"), "--noise", str(tmp_path / "script.py")]
    subprocess.run(command, check=True, cwd=ROOT)
    events = EventAccumulator(str(next((tmp_path / "logs").glob("1-*/train"))))
    events.Reload()
    assert {"noise/trace", "step/loss"} <= set(events.Tags()["tensors"])
