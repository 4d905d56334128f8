"""What `fitcore.TensorBoard` looks at inside the loop: that it is what it says, and that no bit of the training changes."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

import fitcore
from tests import models

X, Y = models.data(36)


def embedding():
    model = keras.Sequential([keras.Input((3,)), layers.Embedding(20, 4), layers.Flatten(), layers.Dense(1)])
    model.compile("adam", "mse")
    return model


def convolutions():
    body = [layers.Conv2D(2, 3, activation="relu"), layers.Flatten(), layers.Dense(1)]
    model = keras.Sequential([keras.Input((6, 6, 1)), *body])
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9, clipnorm=1.0), "mse")
    return model


def scaled_loss():
    keras.config.set_dtype_policy("mixed_float16")
    model = models.noisy()
    keras.config.set_dtype_policy("float32")
    return model


KINDS = {
    "noisy": (models.noisy, X),
    "embedding": (embedding, np.abs(X * 5).astype("int32")),
    "convolutions": (convolutions, np.repeat(X, 12, axis=1).reshape(36, 6, 6, 1)),
    "loss scale": (scaled_loss, X),
    "eager": (lambda: models.noisy(run_eagerly=True), X),
}


def tensors(folder):
    """{tag: {step: array}} of the event files in `folder`."""
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()
    return {
        tag: {event.step: make_ndarray(event.tensor_proto) for event in events.Tensors(tag)} for tag in events.Tags()["tensors"]
    }


@pytest.mark.parametrize("kind", KINDS)
def test_looking_changes_no_bit(kind, tmp_path):
    make, x = KINDS[kind]
    found, steps = [], []
    for hooks in ([], [fitcore.TensorBoard(tmp_path, histograms=3, images=2 * (x.ndim == 4))]):
        keras.utils.set_random_seed(1)
        model = make()
        history = fitcore.fit(model, x, Y, batch_size=4, epochs=2, verbose=0, hooks=hooks, record=("step/loss",))
        found.append((list(models.state(model).values()), history.history))
        steps.append(history.steps)
    assert found[0] == found[1]
    assert set(steps[1]) == {"step/loss", "step/learning_rate", "step/gradient_norm", "loss"}  # nothing of the look itself
    written = tensors(tmp_path / "train")
    for variable in model.trainable_variables:
        for tag in ("weights", "gradients", "updates"):
            points = written[f"{tag}/{variable.path}"]
            assert list(points) == [3, 6, 9, 12, 15, 18] or (kind == "loss scale" and tag == "gradients")  # some not finite
            assert all(buckets[:, 2].sum() == np.prod(variable.shape) for buckets in points.values())


def test_histograms_are_of_the_weights_the_gradient_and_the_update(tmp_path):
    model = models.noisy(optimizer=keras.optimizers.SGD(0.125))
    weights, gradients = [], []

    class Reads(fitcore.Hook):
        when = fitcore.EVERY_STEP
        record = {"kernel": lambda seen: tf.reshape(seen.gradients[0], [-1])}  # noqa: RUF012 (as hooks are written)

        def after_steps(self, view):
            weights.append(model.trainable_variables[0].numpy().astype("float64"))
            gradients.append(view.records["kernel"][0])

    hooks = [Reads(), fitcore.TensorBoard(tmp_path, histograms=2)]
    fitcore.fit(model, X, Y, batch_size=12, verbose=0, hooks=hooks)  # 3 steps
    fitcore.fit(model, X, Y, batch_size=12, verbose=0, hooks=hooks)  # whose second ends at step 5, not looked at
    path = model.trainable_variables[0].path
    written = tensors(tmp_path / "train")  # the second fit's file goes on in the same folder
    for step in (2, 4, 6):
        update = weights[step - 1] - weights[step - 2]
        for tag, values in {"weights": weights[step - 1], "gradients": gradients[step - 1], "updates": update}.items():
            buckets = written[f"{tag}/{path}"][step]
            counts, edges = np.histogram(values, 30)
            np.testing.assert_array_equal(buckets[:, 2], counts)
            np.testing.assert_allclose(buckets[:, 0], edges[:-1], rtol=1e-6, atol=1e-12)
        ratio = np.linalg.norm(update) / np.linalg.norm(weights[step - 2])
        assert written[f"update_to_weight/{path}"][step] == pytest.approx(ratio, rel=1e-6)


def test_a_weight_without_a_gradient_and_one_that_is_not_finite_are_left_out(tmp_path):
    class Idle(layers.Dense):
        def build(self, shape):
            super().build(shape)
            self.idle = self.add_weight(shape=(2,), name="idle")

    model = keras.Sequential([keras.Input((3,)), Idle(1, name="dense")])
    model.compile("sgd", "mse")
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        fitcore.fit(model, X, Y, batch_size=36, verbose=0, hooks=[fitcore.TensorBoard(tmp_path, histograms=1)])
    written = {tag for tag in tensors(tmp_path / "train") if "idle" in tag}
    assert {tag.split("/")[0] for tag in written} == {"weights", "updates", "update_to_weight"}
    with pytest.warns(UserWarning, match="The loss is nan"):
        fitcore.fit(model, X * np.nan, Y, batch_size=36, verbose=0, hooks=[fitcore.TensorBoard(tmp_path / "nan", histograms=2)])
    assert "weights/sequential/dense/kernel" not in tensors(tmp_path / "nan" / "train")


def test_an_engine_s_variables_and_another_model(tmp_path):
    class Line(tf.Module):
        def __init__(self):
            self.kernels = [tf.Variable(tf.ones((3, 1)), name="kernel") for _ in range(2)]

        def __call__(self, x):
            return x @ self.kernels[0] + x @ self.kernels[1]

    hook = fitcore.TensorBoard(tmp_path, histograms=1)
    engine = fitcore.Engine(Line(), optimizer=keras.optimizers.SGD(0.1), loss=keras.losses.MeanSquaredError())
    fitcore.fit(engine, X, Y, batch_size=36, verbose=0, hooks=[hook])
    assert {"weights/kernel:0", "weights/kernel:0_2"} <= tensors(tmp_path / "train").keys()
    with pytest.raises(ValueError, match="one hook looks at one model"):
        fitcore.fit(models.noisy(), X, Y, verbose=0, hooks=[hook])


def test_images_of_the_first_batch(tmp_path):
    x = np.arange(8 * 5 * 4, dtype="float32").reshape(8, 5, 4, 1)
    model = keras.Sequential([keras.Input((5, 4, 1)), layers.Flatten(), layers.Dense(1)])
    model.compile("sgd", "mse")
    fitcore.fit(
        model, x, x[:, 0, 0], batch_size=4, shuffle=False, epochs=2, verbose=0, hooks=[fitcore.TensorBoard(tmp_path, images=3)]
    )
    ((step, written),) = tensors(tmp_path / "train")["images"].items()
    assert step == 1
    assert written[:2].tolist() == [b"4", b"5"]  # width, height
    images = np.stack([tf.io.decode_png(png).numpy() for png in written[2:]])
    np.testing.assert_array_equal(images, np.round(255 * x[:3] / x[:3].max()).astype("uint8"))


def test_what_makes_no_sense_is_refused(tmp_path):
    with pytest.raises(ValueError, match="histograms=0"):
        fitcore.TensorBoard(tmp_path, histograms=0)
    with pytest.raises(ValueError, match="images=-1"):
        fitcore.TensorBoard(tmp_path, images=-1)
    with pytest.raises(ValueError, match="XLA"):
        fitcore.fit(models.linear(jit_compile=True), X, Y, verbose=0, hooks=[fitcore.TensorBoard(tmp_path, histograms=1)])
    with pytest.raises(ValueError, match=r"`images`.*\(None, 3\)"):
        fitcore.fit(models.linear(), X, Y, verbose=0, hooks=[fitcore.TensorBoard(tmp_path, images=1)])
