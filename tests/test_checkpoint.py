"""A fit can be cut anywhere: started again, it ends in the bits of one that never was."""

from __future__ import annotations

import functools
import itertools
import random
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from cuts import Case, Cut, Where, assert_survives, differing
from keras import layers
from models import data, linear, noisy, of_unknown_size
from tensorflow.python.eager import context

import fitcore
from fitcore.checkpoint import callbacks as callback_states

ROWS, BATCH = 22, 4  # six steps an epoch, the last of two rows
EPOCH = 6
CUTS: tuple[Where, ...] = (3, EPOCH, EPOCH + 1)  # within an epoch, in its last step, in the first of the next


@functools.cache
def shared() -> keras.Model:
    """One model for all cases that ask nothing else of it: what it has traced it needn't trace again."""
    return noisy()


def arrays(**more: Any) -> dict[str, Any]:
    x, y = data(ROWS)
    return {"model": shared(), "x": x, "y": y, "batch_size": BATCH, "epochs": 3} | more


def shuffled(rows: int = ROWS, batch: int = BATCH) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(data(rows)).shuffle(10).batch(batch)


class Batches(keras.utils.PyDataset):
    """Six batches of four; counts how often each is made."""

    def __init__(self, endless: bool = False, **workers: Any) -> None:
        super().__init__(**workers)
        self.x, self.y = data(24)
        self.endless = endless
        self.made: list[int] = []

    @property
    def num_batches(self) -> int | None:
        return None if self.endless else 6

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        self.made.append(i)
        i %= 6
        return self.x[4 * i : 4 * i + 4], self.y[4 * i : 4 * i + 4]


class Drawing(keras.callbacks.Callback):
    """Draws from every global generator, and lets the learning rate follow."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        drawn = [random.random(), np.random.random(), float(tf.random.uniform([])), float(keras.random.uniform([]))]
        self.model.optimizer.learning_rate = 0.01 * sum(drawn)


class Augmented(Batches):
    """What its batches are depends on how many epochs have begun and ended; it says so."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = self.ended = 0

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        x, y = super().__getitem__(i)
        return x * np.float32(1 + 0.1 * self.begun + 0.01 * self.ended), y

    def on_epoch_begin(self) -> None:
        self.begun += 1

    def on_epoch_end(self) -> None:
        self.ended += 1

    def state(self) -> dict[str, int]:
        return {"begun": self.begun, "ended": self.ended}

    def load_state(self, state: dict[str, int]) -> None:
        self.begun, self.ended = state["begun"], state["ended"]


# --- data -----------------------------------------------------------------------------------------------------------------


DATA: dict[str, Callable[[], dict[str, Any]]] = {
    "arrays": lambda: arrays(validation_split=0.1),
    "shuffle_batch": lambda: arrays(shuffle="batch"),
    "reshuffle": lambda: arrays(shuffle=fitcore.Reshuffle(3)),
    "steps_over_passes": lambda: arrays(steps_per_epoch=4),
    "steps_end_in_a_pass": lambda: arrays(steps_per_epoch=EPOCH, epochs=2),
    "class_weight": lambda: arrays(y=(data(ROWS)[1] > 0).astype("int32"), class_weight={0: 0.3, 1: 2.0}, initial_epoch=1),
    "sample_weight": lambda: arrays(sample_weight=np.linspace(0, 1, ROWS).astype("float32"), validation_freq=2),
    "dataset": lambda: arrays(x=shuffled(), y=None, batch_size=None, validation_data=shuffled()),
    "chained_shuffles": lambda: arrays(x=shuffled().shuffle(3), y=None, batch_size=None),
    "endless": lambda: arrays(
        x=tf.data.Dataset.from_tensor_slices(data(ROWS)).shuffle(10).repeat().batch(BATCH),
        y=None,
        batch_size=None,
        steps_per_epoch=5,
    ),
    "endless_chained": lambda: arrays(x=shuffled().shuffle(3).repeat().shuffle(4), y=None, batch_size=None, steps_per_epoch=5),
    "unknown_size": lambda: arrays(
        x=of_unknown_size(shuffled()), y=None, batch_size=None, validation_data=of_unknown_size(shuffled())
    ),
    "random_map": lambda: arrays(
        x=tf.data.Dataset.from_tensor_slices(data(ROWS))
        .map(lambda x, y: (x + tf.random.uniform([]), y))
        .shuffle(5)
        .batch(BATCH),
        y=None,
        batch_size=None,
    ),
    "dataset_steps": lambda: arrays(x=shuffled(batch=2), y=None, batch_size=None, steps_per_epoch=5),
    "dataset_ends_early": lambda: arrays(x=shuffled(), y=None, batch_size=None, steps_per_epoch=8, epochs=2),
    "py_dataset": lambda: arrays(x=Batches(), y=None, batch_size=None, validation_data=Batches()),
    "py_dataset_workers": lambda: arrays(x=Batches(workers=2), y=None, batch_size=None),
    "py_dataset_steps": lambda: arrays(x=Batches(), y=None, batch_size=None, steps_per_epoch=4),
    "py_dataset_endless": lambda: arrays(x=Batches(endless=True), y=None, batch_size=None, steps_per_epoch=5),
    "py_dataset_in_order": lambda: arrays(x=Batches(), y=None, batch_size=None, shuffle=False),
    "py_dataset_with_state": lambda: arrays(x=Augmented(), y=None, batch_size=None, validation_data=Augmented()),
}


@pytest.mark.parametrize("every", ["2 steps", "1 epoch"])
@pytest.mark.parametrize("name", DATA)
def test_any_data(name: str, every: str, tmp_path: Path) -> None:
    cuts = [*CUTS] if every == "2 steps" else [EPOCH + 2, ("on_train_end", 1)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*(ran out of data|saved as a number)")
        assert_survives(Case(lambda folder: DATA[name](), tmp_path), cuts, again=name in ("arrays", "dataset"), every=every)


def test_no_batch_is_made_twice(tmp_path: Path) -> None:
    """But those that Keras reads for their shapes, and those made ahead and never used."""
    made: list[list[int]] = []

    def make(folder: Path) -> dict[str, Any]:
        batches = Batches()
        made.append(batches.made)
        return arrays(x=batches, y=None, batch_size=None, shuffle=False, epochs=1)

    case = Case(make, tmp_path)
    with pytest.raises(Cut):
        case.fit("cut", 5, {"every": "4 steps"})
    case.fit("cut", None, {"every": "4 steps"})
    first_read = made[0][:-EPOCH] if made[0][-EPOCH:] == [*range(6)] else made[0][: made[0].index(0, 1)]
    assert made[-1][len(first_read) :] == [4, 5]


def test_unseeded_the_rest_of_a_pass_is_the_rest_of_the_same_permutation(tmp_path: Path) -> None:
    """Nothing but the checkpoint can know it. Each row's loss is a power of two, so a batch's loss tells its rows."""
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1, kernel_initializer="zeros")])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    y = np.sqrt(2.0 ** np.arange(16))[:, None]
    arguments = {"model": model, "x": np.zeros((16, 1)), "y": y, "batch_size": 2, "epochs": 2}
    case = Case(lambda folder: dict(arguments), tmp_path, seeded=False)
    context.set_global_seed(None)  # as in a new process; there is no public way back
    with pytest.raises(Cut):
        case.fit("cut", 13, {"every": "1 steps"})
    case.fit("cut", None, {"every": "1 steps"})
    for epoch in np.split(2 * case.history.steps["step/loss"], 2):
        assert sum(round(value) for value in epoch) == 2**16 - 1
        rows = [row for value in epoch for row in range(16) if round(value) >> row & 1]
        assert sorted(rows) == [*range(16)]


def numbers() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    x, y = data(40)
    for i in itertools.count():
        rows = np.arange(i, i + BATCH) % 40
        yield x[rows], y[rows]


def test_a_generator_is_read_again_and_said_to_be(tmp_path: Path) -> None:
    case = Case(lambda folder: arrays(x=numbers(), y=None, batch_size=None, steps_per_epoch=4), tmp_path)
    want = case.fit("undisturbed")
    with pytest.warns(UserWarning, match="`x`: a Python generator begins anew"), pytest.raises(Cut):
        case.fit("cut", 6, {"every": "2 steps"})
    with pytest.raises(fitcore.checkpoint.CheckpointError, match=r'must" can.t be kept. `x`: a Python generator'):
        case.fit("cut", None, {"resume": "must", "every": "2 steps"})
    with pytest.warns(UserWarning, match="`x`: a Python generator begins anew"):
        assert differing(want, case.fit("cut", None, {"every": "2 steps"})) == []


# --- what trains ----------------------------------------------------------------------------------------------------------


def compiled(optimizer: Any = None, body: list[Any] | None = None, **more: Any) -> keras.Model:
    body = body or [layers.Dense(4, activation="relu"), layers.Dense(1)]
    model = keras.Sequential([keras.Input((3,)), *body])
    model.compile(
        **{"optimizer": optimizer or keras.optimizers.SGD(0.05, momentum=0.9), "loss": "mse", "metrics": ["mae"]} | more
    )
    return model


class Own(keras.Model):
    """A step of its own, with a metric of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = layers.Dense(1)
        self.drop = layers.Dropout(0.5)
        self.seen = keras.metrics.Sum("seen")

    def call(self, x: Any, training: bool = False) -> Any:
        return self.drop(self.dense(x), training=training)

    def train_step(self, batch: Any) -> dict[str, Any]:
        x, y = batch
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self(x, training=True) - y) ** 2)
        self.optimizer.apply_gradients(zip(tape.gradient(loss, self.trainable_variables), self.trainable_variables))
        self.seen.update_state(loss)
        return {"loss": loss, "seen": self.seen.result()}

    @property
    def metrics(self) -> list[Any]:
        return [self.seen]


def own() -> keras.Model:
    model = Own()
    model.build((None, 3))
    model.compile(keras.optimizers.Adam(0.01), "mse")
    return model


def several() -> keras.Model:
    """Two outputs with losses and metrics of their own, one of them a vector."""
    inputs = keras.Input((3,))
    outputs = {"a": layers.Dense(1, name="a")(inputs), "b": layers.Dense(2, "softmax", name="b")(inputs)}
    model = keras.Model(inputs, outputs)
    f1 = keras.metrics.F1Score(average=None)
    model.compile("adam", {"a": "mse", "b": "categorical_crossentropy"}, metrics={"a": ["mae", "mse"], "b": [f1]})
    return model


def mixed() -> keras.Model:
    keras.config.set_dtype_policy("mixed_float16")
    return compiled(
        keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01), initial_scale=2.0**20, dynamic_growth_steps=3)
    )


def explicit(optimizer: Any, **more: Any) -> fitcore.Engine:
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4, activation="relu"), layers.Dropout(0.2), layers.Dense(1)])
    loss, metrics = keras.losses.MeanSquaredError(), [keras.metrics.MeanAbsoluteError()]
    return fitcore.Engine(model, optimizer=optimizer, loss=loss, metrics=metrics, **more)


def labels() -> dict[str, np.ndarray]:
    y = data(ROWS)[1]
    return {"a": y, "b": np.concatenate([y > 0, y <= 0], axis=1).astype("float32")}


OPT = keras.optimizers
MODELS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "ema": (lambda: compiled(OPT.AdamW(0.01, use_ema=True, ema_overwrite_frequency=3, clipnorm=0.5)), {}),
    "accumulating": (lambda: compiled(OPT.Adam(0.01, gradient_accumulation_steps=3)), {}),
    "mixed_float16": (mixed, {}),
    "adascale": (lambda: compiled(fitcore.optimizers.AdaScaleSGD(0.05, base_batch_size=2, momentum=0.9)), {}),
    "norm_test": (lambda: compiled(fitcore.optimizers.NormTestSGD(0.05)), {}),
    "chain": (
        lambda: explicit(
            fitcore.optimizers.Chain(fitcore.optimizers.trace(0.8), fitcore.optimizers.scale_by_adam(), learning_rate=0.01)
        ),
        {"validation_split": 0.2},
    ),
    "schedule_of_engine": (
        lambda: explicit(OPT.SGD(0.1), schedule=lambda step, base: base / (1 + tf.cast(step, tf.float32))),
        {},
    ),
    "own_train_step": (own, {}),
    "several_outputs": (several, {"y": labels()}),
    "steps_per_execution": (
        lambda: compiled(steps_per_execution=4),
        {"callbacks": [keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: None)]},
    ),
    "eager": (lambda: compiled(run_eagerly=True, body=[layers.Dropout(0.5), layers.Dense(1)]), {"epochs": 2}),
    "schedule": (compiled, {"schedule": fitcore.make("schedule", "warmup:5,cosine:20")}),
    "several_schedules": (
        compiled,
        {"schedule": {"momentum": lambda step, base: base * 0.9, "batch_size": lambda step: 2 + step // 3}},
    ),
    "each_epoch": (compiled, {"schedule": fitcore.EachEpoch(lambda epoch, rate: 0.5 * rate)}),
    "own_record": (
        compiled,
        {
            "record": {
                "two": lambda seen: tf.stack([seen.loss, 2 * seen.loss]),
                "step/gradient_norm": fitcore.RECORDERS["step/gradient_norm"],
            }
        },
    ),
    "no_record": (compiled, {"record": ()}),
}


@pytest.mark.parametrize("name", MODELS)
def test_any_model(name: str, tmp_path: Path) -> None:
    make_model, arguments = MODELS[name]
    model = make_model()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*EpochRates")
        assert_survives(
            Case(lambda folder: arrays(model=model) | arguments, tmp_path), [3, EPOCH + 2], again=name == "own_train_step"
        )


def unbuilt() -> keras.Model:
    model = keras.Sequential(
        [layers.Dense(4, activation="relu"), layers.BatchNormalization(), layers.Dropout(0.3), layers.Dense(1)]
    )
    model.compile("adam", "mse", metrics=["mae"])
    return model


@pytest.mark.parametrize("make", [unbuilt, noisy], ids=["unbuilt", "built"])
def test_a_model_new_in_each_process(make: Callable[[], keras.Model], tmp_path: Path) -> None:
    assert_survives(Case(lambda folder: arrays(model=make(), epochs=2), tmp_path, fresh=True), [3, EPOCH + 1])


# --- hooks ----------------------------------------------------------------------------------------------------------------


class Asking(fitcore.Hook):
    """Every four steps: evaluates, keeps the weights, changes the learning rate; at the end wants the kept ones back."""

    when = fitcore.every(4)

    def __init__(self) -> None:
        self.evaluations: list[float] = []

    def after_steps(self, view: fitcore.View) -> Any:
        self.evaluations.append(view.evaluation.get("val_loss", -1.0))
        requests = [fitcore.Evaluate(), fitcore.Set("learning_rate", 0.001 * (view.step + len(self.evaluations)))]
        return [*requests, fitcore.Keep()] if view.step == 8 else requests

    def after_epoch(self, view: fitcore.View) -> Any:
        return [fitcore.Restore(), fitcore.Stop("enough")] if view.epoch == 1 else None

    def state(self) -> dict[str, Any]:
        return {**super().state(), "evaluations": self.evaluations}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.evaluations = state["evaluations"]


HOOKS: dict[str, Callable[[], dict[str, Any]]] = {
    "norm_test": lambda: {
        "hooks": [fitcore.InLoop(fitcore.NormTest(theta=1.0, most=16))],
        "noise": fitcore.GradientNoise(per_layer=True),
    },
    "stop_on_step": lambda: {"hooks": [fitcore.StopOn(fitcore.Smoothed(fitcore.Patience(9, 9.0), 0.9), "step/loss")]},
    "early_stopping": lambda: {"hooks": [fitcore.EarlyStopping("val_loss", 2, min_delta=0.3, restore_best=True)], "epochs": 5},
    "stop_after": lambda: {"hooks": [fitcore.StopAfter(examples=40)]},
    "plateau": lambda: {"hooks": [fitcore.Plateau("val_loss", patience=1, min_delta=0.5)], "epochs": 4},
    "asking": lambda: {"hooks": [Asking()]},
    "batch_size": lambda: {"batch_size": growing},
}


def growing(step: tf.Tensor) -> tf.Tensor:
    return 2 + step % 3


@pytest.mark.parametrize("name", HOOKS)
def test_any_hook(name: str, tmp_path: Path) -> None:
    make = lambda folder: arrays(model=plain_model(), validation_split=0.1) | HOOKS[name]()  # noqa: E731
    assert_survives(Case(make, tmp_path), [3, EPOCH + 1, ("on_train_end", 1)], every="1 step")


@functools.cache
def plain_model() -> keras.Model:
    return compiled()


# --- callbacks ------------------------------------------------------------------------------------------------------------


class Counting(keras.callbacks.Callback):
    """Sets a learning rate that depends on how many batches it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.batches, self.held = 0, object()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.batches += 1
        self.model.optimizer.learning_rate = 0.01 / self.batches


class CountingOn(Counting):
    def state(self) -> dict[str, int]:
        return {"batches": self.batches}

    def load_state(self, state: dict[str, int]) -> None:
        self.batches = state["batches"]


CB = keras.callbacks
CALLBACKS: dict[str, Callable[[Path], list[Any]]] = {
    "early_stopping": lambda folder: [CB.EarlyStopping("val_loss", min_delta=0.3, patience=2, restore_best_weights=True)],
    "reduce_lr": lambda folder: [CB.ReduceLROnPlateau("val_loss", patience=1, min_delta=0.5), CB.TerminateOnNaN()],
    "scheduler": lambda folder: [
        CB.LearningRateScheduler(lambda epoch, rate: 0.9 * rate),
        CB.LambdaCallback(on_epoch_end=lambda epoch, logs: None),
    ],
    "model_checkpoint": lambda folder: [
        CB.ModelCheckpoint(folder / "best.weights.h5", save_best_only=True, save_weights_only=True)
    ],
    "each_batches": lambda folder: [
        CB.ModelCheckpoint(str(folder / "{epoch}-{batch}.weights.h5"), save_freq=4, save_weights_only=True)
    ],
    "csv": lambda folder: [CB.CSVLogger(folder / "log.csv")],
    "csv_appending": lambda folder: [CB.CSVLogger(folder / "log.csv", append=True)],
    "backup": lambda folder: [CB.BackupAndRestore(folder / "backup")],
    "of_ones_own": lambda folder: [CountingOn()],
}


def written(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.suffix == ".csv"} | {
        path.name: b"" for path in folder.rglob("*.h5")
    }


@pytest.mark.parametrize("name", CALLBACKS)
def test_any_callback(name: str, tmp_path: Path) -> None:
    def make(folder: Path) -> dict[str, Any]:
        return arrays(model=plain_model(), validation_split=0.1, epochs=4, callbacks=CALLBACKS[name](folder))

    assert_survives(Case(make, tmp_path), [3, EPOCH + 1, ("on_epoch_end", 2), ("on_train_end", 1)], again=True)
    assert written(tmp_path / "cut0" / "written") == written(tmp_path / "undisturbed" / "written")


@pytest.mark.parametrize(("mode", "loss"), [("min", 0.98), ("max", 1.02)])
def test_less_than_min_delta_is_no_improvement_in_another_process_either(mode: str, loss: float) -> None:
    def started() -> list[keras.callbacks.Callback]:
        made = [each("val_loss", mode=mode, patience=1, min_delta=0.05) for each in (CB.EarlyStopping, CB.ReduceLROnPlateau)]
        for callback in made:
            callback.set_model(model)
            callback.on_train_begin()
        return made

    model = linear()
    ended = []
    for resumed in (False, True):
        model.stop_training, model.optimizer.learning_rate = False, 0.5
        callbacks = started()
        for epoch, value in enumerate((1.0, loss)):
            for i, callback in enumerate(callbacks):
                callback.on_epoch_end(epoch, {"val_loss": value})
                if resumed and epoch == 0:
                    saved = callback_states.state(callback)
                    callbacks[i] = started()[i]
                    callback_states.load_state(callbacks[i], saved)
        ended.append((model.stop_training, float(model.optimizer.learning_rate)))
    assert ended == [(True, pytest.approx(0.05))] * 2


def test_swapped_averages(tmp_path: Path) -> None:
    model = compiled(keras.optimizers.SGD(0.05, use_ema=True))

    def make(folder: Path) -> dict[str, Any]:
        return arrays(model=model, validation_split=0.1, callbacks=[CB.SwapEMAWeights(swap_on_epoch=True)])

    assert_survives(Case(make, tmp_path), [3, EPOCH + 1], every="1 epoch")
    assert_survives(Case(make, tmp_path / "steps"), [3, EPOCH + 1])


def test_a_callback_without_state_is_named(tmp_path: Path) -> None:
    case = Case(lambda folder: arrays(model=plain_model(), callbacks=[Counting()]), tmp_path)
    with pytest.warns(UserWarning, match="Counting .*has no methods `state` and `load_state`"):
        case.fit("auto", None, {})
    with pytest.raises(fitcore.checkpoint.CheckpointError, match=r"must.*Counting"):
        case.fit("auto", None, {"resume": "must"})


def points(folder: Path) -> dict[str, list[tuple[int, bytes]]]:
    """All points that TensorBoard would show, by folder and tag, but for those about the process; those that are alike once."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = {}
    for directory in sorted({path.parent for path in folder.rglob("events.*")}):
        events = EventAccumulator(str(directory), {"tensors": 0}).Reload()
        for tag in events.Tags()["tensors"]:
            values = [(event.step, event.tensor_proto.SerializeToString()) for event in events.Tensors(tag)]
            own = "steps_per_second" in tag or tag.startswith("fit/")
            if not own and tag not in ("keras", "custom_scalars__config__"):
                found[f"{directory.relative_to(folder)}/{tag}"] = sorted(set(values))
    return found


BOARDS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "keras": lambda folder: {"callbacks": [CB.TensorBoard(folder / "board", update_freq=1)]},
    "fitcore": lambda folder: {"hooks": [fitcore.TensorBoard(folder / "board")]},
    "noise": lambda folder: {"noise": fitcore.GradientNoise(directory=folder / "board")},
}


@pytest.mark.parametrize("name", BOARDS)
def test_no_point_is_missing_and_those_written_twice_are_alike(name: str, tmp_path: Path) -> None:
    case = Case(lambda folder: arrays(model=plain_model(), validation_split=0.1) | BOARDS[name](folder), tmp_path)
    assert_survives(case, [3, EPOCH + 2, ("on_train_end", 1)])
    assert points(tmp_path / "cut0" / "written") == points(tmp_path / "undisturbed" / "written")


# --- when, and what is there ----------------------------------------------------------------------------------------------


def folders(case_folder: Path) -> list[str]:
    return sorted(path.name.partition("-")[2] for path in (case_folder / "checkpoints").iterdir() if path.is_dir())


def test_how_many_are_kept_and_what_stays_when_one_fit_is_done(tmp_path: Path) -> None:
    case = Case(lambda folder: arrays(), tmp_path)
    case.fit("three", None, {"every": "5 steps", "keep": 3})
    assert folders(tmp_path / "three") == ["step-10", "step-15", "step-18"]
    case.fit("one", None, {"every": "1 epoch", "keep": 1})
    assert folders(tmp_path / "one") == ["step-18"]


def test_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes a second further each time it is looked at."""
    from fitcore.checkpoint import saver

    clock = itertools.count()
    monkeypatch.setattr(saver.time, "monotonic", lambda: float(next(clock)))
    assert_survives(Case(lambda folder: arrays(), tmp_path), [EPOCH + 1], every="1 second")
    assert len(folders(tmp_path / "cut0")) == 2


def test_the_weights_are_there_for_tensorflow_alone(tmp_path: Path) -> None:
    case = Case(lambda folder: arrays(), tmp_path)
    case.fit("whole", None, {"every": "1 epoch"})
    newest = max(path for path in (tmp_path / "whole" / "checkpoints").iterdir() if path.is_dir())
    reader = tf.train.load_checkpoint(str(newest / "state"))
    names = [name for name in reader.get_variable_to_shape_map() if name.startswith("model/")]
    found = [reader.get_tensor(name) for name in sorted(names, key=lambda name: int(name.split("/")[1]))]
    assert [value.tobytes() for value in found] == [variable.numpy().tobytes() for variable in shared().variables]


def test_two_fits_one_after_the_other(tmp_path: Path) -> None:
    """The first is answered, and the second goes on where it was cut."""
    model = compiled()
    start = [variable.numpy() for variable in model.variables]

    def both(name: str, cut: Where, checkpoint: dict[str, Any] | None) -> dict[str, Any]:
        keras.utils.set_random_seed(1)
        for variable, value in zip(model.variables, start):
            variable.assign(value)
        model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
        Case(lambda folder: arrays(model=model, epochs=1), tmp_path, seeded=False).fit(f"{name}-first", None, checkpoint)
        return Case(lambda folder: arrays(model=model, epochs=2), tmp_path, seeded=False).fit(f"{name}-second", cut, checkpoint)

    want = both("undisturbed", None, None)
    with pytest.raises(Cut):
        both("cut", 3, {"every": "2 steps"})
    assert differing(want, both("cut", None, {"every": "2 steps"})) == []


# --- what must be alike -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"epochs": 5}, "`epochs` was 3, is 5"),
        ({"x": data(ROWS, seed=1)[0]}, "`data` was"),
        ({"batch_size": 3}, "`batch_size` was 4, is 3"),
        ({"shuffle": False}, "`shuffle` was True, is False"),
        ({"hooks": [fitcore.StopAfter(steps=99)]}, "`hooks` was"),
        ({"callbacks": [keras.callbacks.TerminateOnNaN()]}, "`callbacks` was"),
        ({"schedule": lambda step: 0.1}, "`schedule` was None"),
    ],
    ids=["epochs", "data", "batch_size", "shuffle", "hooks", "callbacks", "schedule"],
)
def test_another_fit_is_refused(changes: dict[str, Any], named: str, tmp_path: Path) -> None:
    case = Case(lambda folder: arrays(), tmp_path)
    with pytest.raises(Cut):
        case.fit("cut", 5, {"every": "2 steps"})
    with pytest.raises(fitcore.checkpoint.CheckpointError, match=named):
        case.fit("cut", None, {"every": "2 steps"}, **changes)


def test_another_seed_or_optimizer_is_refused_and_can_be_forced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(lambda folder: arrays(), tmp_path)
    with pytest.raises(Cut):
        case.fit("cut", 5, {"every": "2 steps"})
    monkeypatch.setattr("cuts.SEED", 4321)
    with pytest.raises(fitcore.checkpoint.CheckpointError, match="`global seed` was 1234, is 4321"):
        case.fit("cut", None, {"every": "2 steps"})
    monkeypatch.undo()
    monkeypatch.setattr(shared().optimizer, "beta_1", 0.5)
    with pytest.raises(fitcore.checkpoint.CheckpointError, match=r"`optimizer.beta_1` was 0.9, is 0.5"):
        case.fit("cut", None, {"every": "2 steps"})
    with pytest.warns(UserWarning, match="`optimizer.beta_1` was 0.9, is 0.5"):
        assert case.fit("cut", None, {"every": "2 steps", "resume": "force"})["steps"] == 3 * EPOCH


def test_other_versions_are_refused_and_can_be_forced(tmp_path: Path) -> None:
    import json

    from fitcore.checkpoint import store

    case = Case(lambda folder: arrays(), tmp_path)
    want = case.fit("undisturbed")
    with pytest.raises(Cut):
        case.fit("cut", 5, {"every": "2 steps"})
    for path in (tmp_path / "cut" / "checkpoints").glob("*/manifest.json"):
        facts = json.loads(path.read_text())["manifest"]
        facts["versions"]["keras"] = "3.0.0"
        path.write_text(store.sealed(facts))
    with pytest.raises(fitcore.checkpoint.CheckpointError, match=f"`keras` was '3.0.0', is '{keras.__version__}'"):
        case.fit("cut", None, {"every": "2 steps"})
    with pytest.warns(UserWarning, match="`keras` was '3.0.0'"):
        assert differing(want, case.fit("cut", None, {"every": "2 steps", "resume": "force"})) == []


def test_never_and_must(tmp_path: Path) -> None:
    case = Case(lambda folder: arrays(), tmp_path)
    with pytest.raises(fitcore.checkpoint.CheckpointError, match="holds none"):
        case.fit("a", None, {"resume": "must"})
    case.fit("a", None, {"resume": "never"})
    with pytest.raises(fitcore.checkpoint.CheckpointError, match="never"):
        case.fit("a", None, {"resume": "never"})


# --- the tests can fail -----------------------------------------------------------------------------------------------------


def kept_out(kind: str) -> Callable[[Any], Any]:
    """A `state.put_back` that leaves some of the run's variables as they were."""
    from fitcore.checkpoint import state

    put_back = state.put_back

    def but(run: Any, saved: Any) -> None:
        metrics = {id(variable) for metric in run.engine.parts.metrics() for variable in metric.variables}
        kinds = {
            "seed generators": lambda name, variable: "seed_generator" in name,
            "optimizer slots": lambda name, variable: name.startswith("optimizer/") and "momentum" in name,
            "metrics": lambda name, variable: id(variable) in metrics,
            "moving statistics": lambda name, variable: "moving_" in name,
        }
        left = [(variable, variable.numpy()) for name, variable in run.variables() if kinds[kind](name, variable)]
        assert left
        put_back(run, saved)
        for variable, value in left:
            variable.assign(value)

    return but


def nothing(*arguments: Any, **more: Any) -> None:
    pass


@pytest.mark.parametrize(
    ("what", "target", "arguments"),
    [
        *(
            (kind, "fitcore.checkpoint.state.put_back", {})
            for kind in ("seed generators", "optimizer slots", "metrics", "moving statistics")
        ),
        (
            "order of rows",
            "fitcore.data.sources.ArraySource.open_again",
            {"shuffle": fitcore.Reshuffle(1), "steps_per_epoch": 9},
        ),
        ("hooks", "fitcore.hooks.protocol.Hook.load_state", {"hooks": lambda: [fitcore.StopAfter(steps=9)]}),
        (
            "callbacks",
            "fitcore.checkpoint.callbacks.load_state",
            {"callbacks": lambda: [keras.callbacks.ReduceLROnPlateau("loss", patience=1, min_delta=9.0)]},
        ),
        ("random state", "fitcore.checkpoint.randomness.load_state", {"callbacks": lambda: [Drawing()]}),
        ("validation", "fitcore.validation.Validation.load_state", {"validation_data": shuffled}),
        ("curves", "fitcore.run.Curve.load", {}),
    ],
    ids=lambda value: value if isinstance(value, str) and "." not in value else "",
)
def test_what_is_not_put_back_is_noticed(
    what: str, target: str, arguments: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(folder: Path) -> dict[str, Any]:
        return arrays() | {name: value() if callable(value) else value for name, value in arguments.items()}

    case = Case(make, tmp_path)
    want = case.fit("undisturbed")
    with pytest.raises(Cut):
        case.fit("cut", EPOCH + 2, {"every": "1 step"})
    broken: Callable[..., Any] = nothing
    if target.endswith("put_back"):
        broken = kept_out(what)
    elif what == "order of rows":
        broken = lambda source, *rest: source.open_pass(7)  # noqa: E731
    monkeypatch.setattr(target, broken)
    try:
        found = differing(want, case.fit("cut", None, {"every": "1 step"}))
    except Exception as error:
        found = [repr(error)]
    assert found


def test_where_a_schedule_begins_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Although the rate that the optimizer has when the fit is started again is another one."""
    model, rates = compiled(keras.optimizers.SGD(0.1)), iter((0.1, 0.1, 0.2, 0.1, 0.2))

    def make(folder: Path) -> dict[str, Any]:
        return arrays(model=model, schedule=falling)

    case = Case(make, tmp_path)
    put_back = case._put_back

    def at_another_rate(folder: Path) -> None:
        put_back(folder)
        model.optimizer.learning_rate = next(rates)

    monkeypatch.setattr(case, "_put_back", at_another_rate)
    want = case.fit("undisturbed")
    for load, equal in ((fitcore.Engine.load_bases, True), (nothing, False)):
        with pytest.raises(Cut):
            case.fit(f"cut{equal}", 4, {"every": "2 steps"})
        monkeypatch.setattr(fitcore.Engine, "load_bases", load)
        got = case.fit(f"cut{equal}", None, {"every": "2 steps", "resume": "force"})
        assert (got["curves"] == want["curves"]) == equal


def falling(step: tf.Tensor, base: tf.Tensor) -> tf.Tensor:
    return base / (1 + tf.cast(step, tf.float32))


class Random(layers.Layer):
    """Draws by an op whose state is TensorFlow's own."""

    def __init__(self, draw: Callable[[Any], Any]) -> None:
        super().__init__()
        self.draw = draw

    def call(self, inputs: Any) -> Any:
        return inputs + self.draw(tf.shape(inputs))


@pytest.mark.parametrize(
    ("draw", "kind"),
    [
        (tf.random.uniform, "RandomUniform"),
        (lambda shape: tf.random.shuffle(tf.range(3.0)), "RandomShuffle"),
        (lambda shape: tf.random.get_global_generator().normal(shape), "RngReadAndSkip"),
    ],
    ids=["uniform", "shuffle", "generator"],
)
def test_random_ops_that_no_variable_holds_are_named(draw: Callable[[Any], Any], kind: str, tmp_path: Path) -> None:
    model = compiled(body=[Random(draw), layers.Dense(1)])
    case = Case(lambda folder: arrays(model=model, epochs=1), tmp_path)
    with pytest.warns(UserWarning, match=f"`model`: the state of .*{kind}.* in its step"), pytest.raises(Cut):
        case.fit("cut", 5, {"every": "2 steps"})
    with pytest.raises(fitcore.checkpoint.CheckpointError, match=f"must.*{kind}"):
        case.fit("cut", None, {"every": "2 steps", "resume": "must"})


def test_what_keeps_its_state_is_not_named(tmp_path: Path) -> None:
    case = Case(lambda folder: arrays(validation_split=0.1), tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(Cut):
            case.fit("cut", 5, {"every": "2 steps"})
        case.fit("cut", None, {"every": "2 steps", "resume": "must"})
