"""Gradient noise under a MirroredStrategy of two replicas: what one device measures on the same batches, without a trace in the
training, with one vector more to send."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from cuts import Case, assert_survives
from keras import layers
from models import data, linear, noisy, state

import fitcore
from benchmarks.parity.strategies import mirrored
from fitcore import GradientNoise
from fitcore.noise import NoiseCurves, over_replicas
from fitcore.noise.statistics import estimate, groups
from fitcore.optimizers.adascale import AdaScaleSGD


def small() -> keras.Model:
    """Layers whose sums are centred and others, and a regularizer."""
    body = [layers.Reshape((3, 1)), layers.Dense(2, activation="tanh", kernel_regularizer="l2"), layers.Flatten()]
    model = keras.Sequential([keras.Input((3,)), *body, layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse")
    return model


def convolution() -> keras.Model:
    body = [layers.Reshape((3, 1)), layers.Conv1D(2, 2, activation="tanh", kernel_regularizer="l2"), layers.Flatten()]
    model = keras.Sequential([keras.Input((3,)), *body, layers.BatchNormalization(synchronized=True), layers.Dense(1)])
    model.compile(keras.optimizers.AdamW(0.01), "mse")
    return model


Trained = tuple[list[bytes], Any, keras.Model]  # every byte that training changes, the history, the model
known: dict[Any, Trained] = {}  # fits that several tests look at are made once


def trained(make: Any, rows: int, noise: Any, together: bool = True, **arguments: Any) -> Trained:
    """A fresh model trained on two replicas or on one device; by Keras where `noise` is None."""
    key = (keras.config.floatx(), make, rows, repr(noise), together, *arguments.items())
    reusable = "hooks" not in arguments and "record" not in arguments
    if reusable and key in known:
        return known[key]
    keras.utils.clear_session()
    keras.utils.set_random_seed(3)
    x, y = data(rows)
    with mirrored().scope() if together else contextlib.nullcontext():
        model = make()
    arguments = {"batch_size": 8, "shuffle": False, "verbose": 0} | arguments
    history = model.fit(x, y, **arguments) if noise is None else fitcore.fit(model, x, y, noise=noise, **arguments)
    result = list(state(model).values()), history, model
    if reusable:
        known[key] = result
    return result


def assert_same(found: NoiseCurves, expected: NoiseCurves, tolerance: float) -> None:
    """|G|^2 is a difference: compared on the scale of |G_B|^2."""
    np.testing.assert_array_equal(found.batch_size, expected.batch_size)
    np.testing.assert_allclose(found.weights, expected.weights, rtol=1e-12)
    pairs = [(found, expected), *((found.layers[name], expected.layers[name]) for name in expected.layers)]
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours.trace, theirs.trace, rtol=tolerance)
        np.testing.assert_allclose(ours.batch_grad_norm_sq, theirs.batch_grad_norm_sq, rtol=tolerance)
        np.testing.assert_allclose(ours.applied_grad_norm_sq, theirs.applied_grad_norm_sq, rtol=tolerance)
        gap = (ours.grad_norm_sq - theirs.grad_norm_sq) / theirs.batch_grad_norm_sq
        np.testing.assert_allclose(gap, 0.0, atol=tolerance)


# --- per example ------------------------------------------------------------------------------------------------------------


SOME = GradientNoise(examples=4)


def test_it_is_what_one_device_measures_on_the_same_batches() -> None:
    """Of some of the rows: the very same ones."""
    _, alone, _ = trained(small, 16, SOME, together=False)
    _, together, _ = trained(small, 16, SOME)
    assert_same(together.noise, alone.noise, 1e-6)
    assert together.noise.how == alone.noise.how
    assert set(together.steps) == set(alone.steps)


@pytest.mark.slow
@pytest.mark.parametrize("examples", [None, 4])
def test_so_it_is_to_the_last_digits(examples: int | None) -> None:
    """In a last batch of another size too, and where a normalization's statistics are those of all replicas."""
    keras.config.set_floatx("float64")
    noise = GradientNoise(examples=examples)
    _, alone, _ = trained(convolution, 28, noise, together=False)
    _, together, _ = trained(convolution, 28, noise)
    assert_same(together.noise, alone.noise, 1e-12)
    assert together.noise.how == alone.noise.how


@pytest.mark.slow
def test_a_loss_that_is_a_sum() -> None:
    """Then uneven parts weigh as on one device too: 3 rows are 2 and 1."""
    keras.config.set_floatx("float64")

    def make() -> keras.Model:
        return linear(optimizer=keras.optimizers.SGD(1e-3), loss=keras.losses.MeanSquaredError(reduction="sum"))

    _, alone, _ = trained(make, 19, True, together=False)
    _, together, _ = trained(make, 19, True)
    assert_same(together.noise, alone.noise, 1e-12)


# --- the replicas' own gradients --------------------------------------------------------------------------------------------


HALVES, REPLICAS = GradientNoise("split", splits=2), GradientNoise("replicas")


@pytest.mark.parametrize(("floatx", "rows"), [("float32", 16), pytest.param("float64", 28, marks=pytest.mark.slow)])
def test_replicas_are_micro_batches(floatx: str, rows: int) -> None:
    """With the same halves of each batch, splitting it in two on one device gives the same numbers."""
    keras.config.set_floatx(floatx)
    _, alone, _ = trained(small, rows, HALVES, together=False)
    _, together, _ = trained(small, rows, REPLICAS)
    assert_same(together.noise, alone.noise, 1e-5 if floatx == "float32" else 1e-12)
    assert set(together.noise.how.values()) == {"replicas"}


def test_replicas_agree_with_examples_within_their_interval() -> None:
    """At frozen weights, over many steps; and one device's estimate lies in it too."""
    arguments = {"epochs": 20, "shuffle": True}

    def make() -> keras.Model:
        return linear(optimizer=keras.optimizers.SGD(0.0))

    found = {}
    for noise, together in ((GradientNoise("replicas", decay=1), True), (GradientNoise(decay=1), False)):
        found[together] = trained(make, 160, noise, together, **arguments)[1].noise
    by_replicas, exact = found[True].over(), found[False].over()
    assert by_replicas.low < exact.value < by_replicas.high
    assert by_replicas.low > 0
    assert by_replicas.high < 10 * by_replicas.low


class InTheLoss(keras.Model):
    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        kernel = self.layers[1].kernel
        return super().compute_loss(x, y, y_pred, sample_weight) + keras.ops.mean(keras.ops.square(x @ kernel)) / 2


@pytest.mark.slow
def test_what_has_no_examples_of_its_own_is_compared_across_replicas() -> None:
    def make() -> keras.Model:
        inputs = keras.Input((3,))
        model = InTheLoss(inputs, layers.Dense(1)(inputs))
        model.compile("sgd", "mse")
        return model

    noise = trained(make, 16, True)[1].noise
    assert noise.how == {"dense/kernel": "replicas: used outside any layer's call", "dense/bias": "Dense: exact"}
    assert np.isfinite(noise.trace).all()
    assert noise.weights.tolist() == [1, 1]
    with pytest.raises(ValueError, match="estimator='auto' or 'replicas'"):
        trained(make, 16, GradientNoise("per_example"))


@pytest.mark.parametrize("is_sum", [False, True])
@pytest.mark.parametrize("rows", [[4, 3, 3], [4, 1, 1], [3, 2, 0]])
def test_estimates_of_uneven_parts_are_unbiased(rows: list[int], is_sum: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated: gradients of known mean and covariance on three replicas, weighted as Keras's loss weighs them."""
    random = np.random.default_rng(0)
    mean, deviation = np.array([0.6, -0.4]), np.array([1.0, 0.5])
    split, ghost = np.array([False, False, True]), np.array([False, True, False])
    replicas, n, draws = len(rows), sum(rows), 20_000
    parts = [mean + deviation * random.normal(size=(draws, size, 2)) for size in rows]
    contributions = [g if is_sum else g / max(g.shape[1], 1) / replicas for g in parts]
    owns = [each.sum(1) for each in contributions]
    whole = np.sum(owns, axis=0)
    summands: Any = np.zeros((draws, 6))
    for size, each, own in zip(rows, contributions, owns):
        share, factor = (size / n, n) if is_sum else (1 / replicas, replicas * size)
        summands[:, 0] += size
        if size:
            summands[:, 1] += share**2 / size
            summands[:, 2] += 1
            summands[:, 3] += factor * ((each - whole[:, None] / factor) ** 2).sum((1, 2))
            summands[:, 4] += factor * (each**2).sum((1, 2))
        summands[:, 5] += ((own - share * whole) ** 2).sum(1) / share if share else 0.0
    # The estimates are linear in these sums: means over many batches stand for one.
    found = []
    for sums, norms in zip(np.split(summands, 40), np.split((whole**2).sum(1), 40)):
        monkeypatch.setattr(over_replicas, "total", lambda value, sums=sums: tf.constant(sums.mean(0)))
        part = over_replicas.Part(*[tf.zeros([], tf.float64)] * 3, replicas, is_sum)
        found.append(part.joined(tf.zeros([6], tf.float64), [tf.fill([3], norms.mean())], split, ghost))
    heads, deviations, norm_sq = np.split(np.asarray(found), [3, 6], axis=1)
    units, size = groups(heads[:, 1:2], heads[:, 2:], split)
    filled = [r for r in rows if r]
    assert (heads[:, 0] == n).all()
    np.testing.assert_allclose(heads[:, 1], n if is_sum else len(filled) ** 2 / sum(1 / r for r in filled))
    # A sum's gradient is n times an example's.
    for values, truth in zip(estimate(deviations, norm_sq, units, size), ((deviation**2).sum(), (mean**2).sum())):
        errors = values / (n if is_sum else 1) ** 2 - truth
        assert (abs(errors.mean(0)) < 4 * errors.std(0, ddof=1) / np.sqrt(40)).all(), errors.mean(0)
        assert (errors.std(0) < truth / 5).all()  # sharp enough to see a wrong one


# --- no trace in the training -----------------------------------------------------------------------------------------------


def clipped() -> keras.Model:
    return noisy(optimizer=keras.optimizers.Adam(0.01, global_clipnorm=0.5))


def scaling() -> keras.Model:
    return noisy(optimizer=keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01), initial_scale=16.0))


def embedding() -> keras.Model:
    model = keras.Sequential([keras.Input((3,)), layers.Embedding(9, 4), layers.Flatten(), layers.Dense(1)])
    model.compile("adam", "mse")
    return model


def test_measuring_leaves_no_trace() -> None:
    """Keras's bits, with measurement and without."""
    noises: list[Any] = [None, False, SOME, REPLICAS]
    bits = [trained(small, 16, noise)[0] for noise in noises]
    for noise, each in zip(noises, bits):
        assert each == bits[0], noise


@pytest.mark.slow
@pytest.mark.parametrize("make", [convolution, noisy, clipped, scaling, embedding])
def test_none_in_other_models_and_uneven_batches(make: Any) -> None:
    noises: list[Any] = [None, False, GradientNoise(), GradientNoise("replicas", every=2)]
    bits = [trained(make, 19, noise, epochs=2)[0] for noise in noises]
    for noise, each in zip(noises, bits):
        assert each == bits[0], noise


def sums_in(model: keras.Model) -> int:
    """How many sums over replicas a step makes: ops in the function that has most. It is there as traced and as optimized."""
    (graph,) = fitcore.Engine.of_compiled(model).graphs()
    definition = graph.as_graph_def()
    functions = [definition.node, *(function.node_def for function in definition.library.function)]
    return max(sum(node.op.startswith("CollectiveReduce") for node in nodes) for nodes in functions)


def test_it_takes_one_sum_over_replicas_more() -> None:
    """Of one vector: the gradients' is made once, and the update takes it from there."""
    without, measured, by_replicas = (sums_in(trained(small, 16, noise)[2]) for noise in (False, SOME, REPLICAS))
    assert measured == by_replicas == without + 2  # two replicas


@pytest.mark.slow
def test_an_update_that_changes_gradients_first_makes_its_own_sum() -> None:
    without, measured = (sums_in(trained(clipped, 16, noise)[2]) for noise in (False, True))
    assert measured == without + 4


def test_a_sum_that_was_read_is_not_made_again() -> None:
    plain, recorded = trained(small, 16, False), trained(small, 16, False, record=["step/gradient_norm"])
    assert plain[0] == recorded[0]
    assert sums_in(recorded[2]) == sums_in(plain[2])


# --- what follows the noise -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [GradientNoise(), pytest.param(REPLICAS, marks=pytest.mark.slow)])
def test_rules_read_it_in_the_loop(noise: GradientNoise) -> None:
    """Of an uneven batch too, what `history.steps` says is what the rule has seen."""

    class Notes:
        needs = ("noise/trace", "noise/grad_norm_sq", "noise/batch_size")
        changes = ("learning_rate",)

        def start(self) -> dict[str, float]:
            return dict.fromkeys(self.needs, 0.0)

        def after_step(self, held: Any, seen: Any) -> fitcore.Outcome:
            stop = seen.values["noise/batch_size"] < 8
            return fitcore.Outcome(dict(seen.values), stop=stop, settings={"learning_rate": 1 / seen.values["noise/trace"]})

        def reason(self, held: Any) -> str:
            return " ".join(f"{held[name]:.12g}" for name in self.needs)

    _, history, model = trained(linear, 19, noise, epochs=2, hooks=[fitcore.InLoop(Notes())])
    last = [history.steps[name][-1] for name in Notes.needs]
    assert history.stop_reason.reason == " ".join(f"{value:.12g}" for value in last)
    assert (history.stop_reason.step, last[2]) == (3, 3)
    assert model.optimizer.learning_rate.numpy() == pytest.approx(1 / last[0])
    np.testing.assert_allclose(last[:2], [history.noise.trace[-1], history.noise.grad_norm_sq[-1]], rtol=1e-12)


@pytest.mark.slow
def test_a_rule_turns_it_on() -> None:
    hooks = [fitcore.InLoop(fitcore.LowSignal(threshold=1e9, patience=2))]
    history = trained(linear, 32, False, hooks=hooks)[1]
    assert history.stop_reason.step == 2


@pytest.mark.slow
@pytest.mark.parametrize("make", [linear, convolution])
def test_a_batch_on_one_replica_alone(make: Any) -> None:
    """A last row by itself: the other replica's gradient is zero, and there is no variance."""
    try:
        trained(make, 9, None)
    except tf.errors.InvalidArgumentError as error:  # oneDNN's convolution of no rows has another shape (TensorFlow 2.21)
        pytest.skip(f"Keras's own fit fails: {str(error).splitlines()[0]}")
    for noise in (SOME, REPLICAS):
        found = trained(make, 9, noise)[1].noise
        assert found.batch_size.tolist() == [8, 1]
        assert np.isfinite(found.trace).tolist() == [True, False]
        assert found.weights[1] == 0


@pytest.mark.slow
def test_it_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    x, y = data(20)

    def make(folder: Path) -> dict[str, Any]:
        with mirrored().scope():
            model = noisy()
        noise = GradientNoise(directory=folder / "noise")
        return {"model": model, "x": x, "y": y, "batch_size": 8, "epochs": 2, "noise": noise}

    assert_survives(Case(make, tmp_path, fresh=True), [4])


# --- what is refused --------------------------------------------------------------------------------------------------------


def test_replicas_need_replicas() -> None:
    with pytest.raises(ValueError, match="`estimator='replicas'` compares the gradients of several replicas"):
        trained(linear, 16, GradientNoise("replicas"), together=False)
    engine = fitcore.Engine(linear(), optimizer=keras.optimizers.SGD(), loss=keras.losses.MeanSquaredError())
    with pytest.raises(ValueError, match="here there is one"):
        engine.probe(GradientNoise("replicas"))
    with pytest.raises(ValueError, match="evidence=True"):
        GradientNoise("replicas", evidence=True)


def test_an_optimizer_that_follows_it() -> None:
    with pytest.raises(ValueError, match=r"`optimizer` must not follow the gradient noise, as AdaScaleSGD does.*of 2 replicas"):
        trained(lambda: linear(optimizer=AdaScaleSGD(0.1)), 16, False)


def test_explain_says_what_is_compared() -> None:
    with mirrored().scope():
        model = linear()
    said = [fitcore.explain(model, *data(16), noise=noise) for noise in (GradientNoise("replicas"), True)]
    assert "at each step, 2 replicas compared" in said[0]
    assert "row by row, or else 2 replicas compared" in said[1]
