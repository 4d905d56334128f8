"""Under OneDeviceStrategy, MirroredStrategy and CentralStorageStrategy. That weights, optimizer and History are Keras's is in
benchmarks/parity; here is what Keras has nothing of, and what is refused."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from cuts import Case, assert_survives
from models import data, dataset, linear, noisy, state

import fitcore
from benchmarks.parity.strategies import central, central_pair, mirrored, one_device
from fitcore.data.making import make_source
from fitcore.engine import Engine


def under(strategy: tf.distribute.Strategy, make: Any = linear, **compile_arguments: Any) -> keras.Model:
    with strategy.scope():
        return make(**compile_arguments)


# --- what is recorded, scheduled, decided -----------------------------------------------------------------------------------


def test_an_epoch_is_one_call_and_records_are_the_whole_batchs() -> None:
    """What is recorded is what one device records of the same batches, up to the order of summation; and changes no bit."""
    x, y = data(64)
    names = ["step/loss", "step/gradient_norm", "step/learning_rate"]
    found = []
    for model in (linear(), under(mirrored()), under(mirrored())):
        record = [] if found[1:] else names
        history = fitcore.fit(model, x, y, batch_size=8, epochs=2, shuffle=False, verbose=0, record=record)
        found.append((history.steps, list(state(model).values()), history.account))
    alone, together, silent = found
    for name in names:
        assert together[0][name].shape == (16,)
        np.testing.assert_allclose(together[0][name], alone[0][name], rtol=1e-6)
    assert silent[1] == together[1]
    assert together[2]["calls"] == 2


@pytest.mark.parametrize("strategy", [central, central_pair])
def test_central_storage(strategy: Any, tmp_path: Path) -> None:
    """Records, noise and a rule as without a strategy; and a run goes on with the same bits."""
    x, y = data(64)
    losses = fitcore.fit(linear(), x, y, batch_size=8, epochs=2, shuffle=False, verbose=0).steps["step/loss"]
    assert losses[8] < losses[:8].min()
    found = []
    for model in (linear(), under(strategy())):
        rule = fitcore.StopOn(fitcore.Target(float(losses[8]) * 1.001), "step/loss")
        given: dict[str, Any] = {"record": ["step/loss", "step/gradient_norm"], "noise": True, "hooks": [rule]}
        history = fitcore.fit(model, x, y, batch_size=8, epochs=2, shuffle=False, verbose=0, **given)
        found.append((history.steps, history.stop_reason and history.stop_reason.step))
    (alone, stopped), (together, stopped_too) = found
    assert stopped == stopped_too is not None
    for name in ("step/loss", "step/gradient_norm", "noise/trace"):
        np.testing.assert_allclose(together[name], alone[name], rtol=1e-5)
    assert set(history.noise.how.values()) == {"Dense: exact"}

    def make(folder: Path) -> dict[str, Any]:
        return {"model": under(strategy()), "x": x, "y": y, "batch_size": 8, "epochs": 2}

    assert_survives(Case(make, tmp_path, fresh=True), [5])


def test_a_recorder_of_ones_own_gives_the_mean_over_replicas() -> None:
    x, y = data(16)
    record = {"own": lambda seen: tf.reduce_sum(seen.x), "rows": lambda seen: tf.shape(seen.x)[0]}
    history = fitcore.fit(under(mirrored()), x, y, batch_size=8, shuffle=False, verbose=0, record=record)
    np.testing.assert_allclose(history.steps["own"], [x[:8].sum() / 2, x[8:].sum() / 2], rtol=1e-5)
    assert history.steps["rows"].tolist() == [4, 4]


@pytest.mark.parametrize("strategy", [one_device, mirrored])
def test_a_schedule_gives_the_bits_of_keras_own(strategy: Any) -> None:
    x, y = data(40)
    decay = keras.optimizers.schedules.ExponentialDecay(0.05, 3, 0.5)
    theirs = under(strategy(), lambda: noisy(optimizer=keras.optimizers.SGD(decay)))
    theirs.fit(x, y, batch_size=8, epochs=2, verbose=0)
    keras.utils.clear_session()
    keras.utils.set_random_seed(1234)
    ours = under(strategy(), lambda: noisy(optimizer=keras.optimizers.SGD(0.05)))
    fitcore.fit(ours, x, y, batch_size=8, epochs=2, verbose=0, schedule=decay)
    assert [v.numpy().tobytes() for v in ours.weights] == [v.numpy().tobytes() for v in theirs.weights]


def test_a_rate_for_each_epoch() -> None:
    x, y = data(16)
    each = fitcore.EachEpoch(lambda epoch, rate: rate / 2)
    history = fitcore.fit(under(mirrored()), x, y, epochs=2, verbose=0, schedule=each, record=["step/learning_rate"])
    np.testing.assert_allclose(history.steps["step/learning_rate"], [0.005, 0.0025])


def test_rules_decide_inside_the_call_on_the_whole_batch() -> None:
    """At the same step as on one device, the rows of all replicas counted."""

    class Rows:
        needs = ("step/loss",)
        changes = ("learning_rate",)

        def start(self) -> dict[str, float]:
            return {"rows": 0.0}

        def after_step(self, held: Any, seen: Any) -> fitcore.Outcome:
            rows = held["rows"] + seen.examples
            return fitcore.Outcome({"rows": rows}, stop=rows >= 24, settings={"learning_rate": 0.01 / rows})

        def reason(self, held: Any) -> str:
            return f"{held['rows']:.0f} rows"

    x, y = data(64)
    for model in (linear(), under(mirrored())):
        history = fitcore.fit(model, x, y, batch_size=8, verbose=0, hooks=[fitcore.InLoop(Rows())])
        assert (history.stop_reason.step, history.stop_reason.reason) == (3, "24 rows")
        assert model.optimizer.learning_rate.numpy() == pytest.approx(0.01 / 24)
        assert history.account["calls"] == 1


def test_evaluating_in_mid_epoch_leaves_every_replicas_metrics_alone() -> None:
    """The last batch has 2 rows for one replica and 1 for the other: their means differ, and so must be kept apart."""

    class Looks(fitcore.Hook):
        when = fitcore.every(2)

        def after_steps(self, view: fitcore.View) -> fitcore.Evaluate:
            return fitcore.Evaluate()

    class Logs(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[float] = []

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.seen.append(float(logs["mae"]))

    x, y = data(19)
    seen = []
    for hooks in ([], [Looks()]):
        keras.utils.set_random_seed(1)
        model, logs = under(mirrored(), metrics=["mae"]), Logs()
        history = fitcore.fit(
            model, x, y, batch_size=8, epochs=2, validation_data=(x, y), verbose=0, hooks=hooks, callbacks=[logs]
        )
        seen.append((logs.seen, history.history, list(state(model).values())))
    assert seen[0] == seen[1]


def test_all_replicas_count_the_step_begun_at_the_end_of_the_data() -> None:
    """In Keras the failure of that step may overtake the count on its way to the second replica, seldom, which is done here by
    hand. The count there then lags behind, and with it the bias correction of Adam: the weights of the replicas part."""
    x, y = data(24)
    model = under(mirrored(), optimizer="adam")
    filtered = tf.data.Dataset.from_tensor_slices((x, y)).filter(lambda x, y: True).batch(8)
    fitcore.fit(model, filtered, verbose=0)
    engine = Engine.of_compiled(model)
    program = engine.train_program(engine.default_record)
    [(key, begun)] = program._past_end.items()
    first, second = model.optimizer.iterations.value.values

    def overtaken(*arguments: Any) -> None:
        try:
            begun(*arguments)
        finally:
            second.assign(first - 1)

    overtaken.graph = begun.graph  # type: ignore[attr-defined]
    program._past_end[key] = overtaken
    fitcore.fit(model, filtered, epochs=2, verbose=0)
    assert int(first) == int(second) == 3 * (3 + 1)
    for variable in model.trainable_variables:
        one, other = variable.value.values
        assert one.numpy().tobytes() == other.numpy().tobytes()


@pytest.mark.parametrize("activation", ["gelu", "hard_silu"])
def test_sums_that_are_read_and_applied_are_the_trainings(activation: str) -> None:
    """Their gradients, made once more for those who watch, would be made of other ops."""
    x, y = data(53)

    def make(**compile_arguments: Any) -> keras.Model:
        keras.utils.set_random_seed(1)
        hidden = [keras.layers.Dense(8, activation=activation) for _ in range(2)]
        model = keras.Sequential([keras.Input(x.shape[1:]), *hidden, keras.layers.Dense(1)])
        model.compile("adam", "mse")
        return model

    found = []
    for record in ([], ["step/gradient_norm"]):
        model = under(mirrored(), make)
        fitcore.fit(model, x, y, batch_size=16, epochs=2, shuffle=False, verbose=0, record=record)
        found.append([value.tobytes() for value in model.get_weights()])
    assert found[0] == found[1]


def test_sparse_gradients_take_a_call_for_each_step() -> None:
    """TensorFlow's op that gathers them remembers one shape for a whole call; the last batch is smaller."""
    tokens = np.random.default_rng(0).integers(0, 9, size=(20, 4))
    with mirrored().scope():
        layers = [keras.layers.Embedding(9, 2), keras.layers.Flatten(), keras.layers.Dense(1)]
        model = keras.Sequential([keras.Input((4,)), *layers])
        model.compile("sgd", "mse")
    history = fitcore.fit(model, tokens, tokens[:, :1], batch_size=8, epochs=2, verbose=0)
    assert (history.account["calls"], history.account["steps"]) == (6, 6)


# --- the data ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "batch_size"), [(24, 8), (23, 8), (9, 8), (7, 3), (3, 1), (5, 12), (10, 5)])
def test_each_replica_gets_the_rows_that_the_strategys_dataset_gives_it(rows: int, batch_size: int) -> None:
    strategy, x = mirrored(), np.arange(rows, dtype="float32")[:, None]
    source = make_source(x, batch_size=batch_size, strategy=strategy)
    feed = source.open_pass(0)
    own = tf.data.Dataset.from_tensor_slices(x).batch(batch_size)
    place = 0
    for want in strategy.experimental_distribute_dataset(own):
        got = keras.tree.flatten(source.next_batch(feed, tf.constant(place, tf.int64), None)[1]())[0]
        for a, b in zip(strategy.experimental_local_results(got), strategy.experimental_local_results(want)):
            assert a.numpy().tolist() == b.numpy().tolist()
        place += 1
    assert source.num_batches == place


def test_what_keras_cannot_do() -> None:
    """Keras's fit fails where the first batch can't be cut evenly and with steps_per_execution; fitcore's trains."""
    x, y = data(15)
    with pytest.raises(tf.errors.InvalidArgumentError, match="must have the same size and shape"):
        under(mirrored()).fit(x, y, batch_size=5, verbose=0)
    alone, together = linear(), under(mirrored())
    for model in (alone, together):
        losses = fitcore.fit(model, x, y, batch_size=5, shuffle=False, verbose=0).steps["step/loss"]
        assert np.isfinite(losses).all()
    assert int(together.optimizer.iterations.numpy()) == 3
    assert np.isfinite(together.evaluate(x, y, batch_size=6, verbose=0))


# --- checkpoints ------------------------------------------------------------------------------------------------------------


def test_a_fit_on_two_replicas_survives(tmp_path: Path) -> None:
    x, y = data(20)

    def make(folder: Path) -> dict[str, Any]:
        model = under(mirrored(), noisy)
        return {"model": model, "x": x, "y": y, "batch_size": 8, "epochs": 2, "validation_data": (x, y)}

    assert_survives(Case(make, tmp_path, fresh=True), [1, 4])


def test_a_checkpoint_of_two_replicas_is_no_other_numbers(tmp_path: Path) -> None:
    x, y = data(20)
    fitcore.fit(under(mirrored()), x, y, verbose=0, checkpoint=fitcore.Checkpoint(tmp_path))
    with pytest.raises(fitcore.CheckpointError, match="`replicas` was 2, is 1"):
        fitcore.fit(linear(), x, y, verbose=0, checkpoint=fitcore.Checkpoint(tmp_path))


# --- what is refused --------------------------------------------------------------------------------------------------------


class Descent:
    """An optimizer of one's own."""

    variables: tuple[Any, ...] = ()

    def build(self, variables: Any) -> None:
        pass

    def apply_gradients(self, pairs: Any) -> None:
        pass


def test_an_engine_of_parts_is_refused_under_a_strategy() -> None:
    x, y = data()
    model = under(mirrored())
    engine = fitcore.Engine(model, optimizer=keras.optimizers.SGD(), loss=keras.losses.MeanSquaredError())
    with pytest.raises(ValueError, match=r"trains without a tf\.distribute strategy"):
        fitcore.fit(engine, x, y, verbose=0)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"numerics": "fast"}, "`numerics="),
        ({"batch_size": lambda step: 4}, "`batch_size` can't change"),
        ({"noise": fitcore.GradientNoise("split")}, "`noise`: `estimator='split'`"),
        ({"noise": fitcore.GradientNoise(evidence=True)}, "`noise`: `evidence=True`"),
        ({"noise": fitcore.GradientNoise(hessian_every=3)}, "`noise`: `hessian_every=3`"),
        ({"hooks": [fitcore.TensorBoard(tempfile.mkdtemp(), histograms=2)]}, "`hooks` hold a fitcore.TensorBoard"),
        ({"x": dataset(), "y": None, "checkpoint": fitcore.Checkpoint(tempfile.mkdtemp())}, "`checkpoint` needs dense arrays"),
        (
            {"validation_data": dataset(), "checkpoint": fitcore.Checkpoint(tempfile.mkdtemp())},
            "`checkpoint` needs arrays for `validation_data`",
        ),
    ],
)
def test_what_is_not_there_is_refused_before_anything_is_done(arguments: dict[str, Any], says: str) -> None:
    """Only the variables that Keras makes in building are there then."""
    x, y = data()
    model = under(mirrored())
    before = [weight.tobytes() for weight in model.get_weights()]
    with pytest.raises(ValueError, match=f"{says}.*2 replicas"):
        fitcore.fit(model, **{"x": x, "y": y, "verbose": 0} | arguments)
    assert [weight.tobytes() for weight in model.get_weights()] == before
