"""E. Why are calls to fit repeated? Three examples, four claims.

    python -m experiments.repeated_fits                    # about a minute
    python -m experiments.repeated_fits --full             # more seeds
    python -m experiments.repeated_fits --patience=5 --most=50

1,000 rows of 10 normal inputs with random labels, Dense(128) and Dense(1), Adam. E1 is 20 calls of fit(epochs=1), E2 stops such
calls by hand, E3 stops one call by Keras's callback. Measured are whether calls and epochs are one computation, what calls show
that one call doesn't, when and with what weights each way of stopping ends, and what validation can show where labels are
random. Beyond the claims: what calls cost, and six ways to stop compared, on random labels and on real digits.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from absl import flags
from keras import layers

import fitcore
from experiments.claims import data
from experiments.claims.question import FULL, MNIST, Findings, Question, run
from experiments.claims.restart import Restarts
from experiments.claims.rules_e import CLAIMS
from experiments.claims.statistics import Effect, mean_of, paired, paired_ratio, share
from fitcore.command_line import launch

CALLS = flags.DEFINE_integer("calls", 20, "E1: calls of one epoch.", lower_bound=2)
MOST = flags.DEFINE_integer("most", 100, "E2, E3: epochs at most.", lower_bound=2)
PATIENCE = flags.DEFINE_integer("patience", 10, "E2, E3: epochs without improvement that are waited for.", lower_bound=1)
DECAY = flags.DEFINE_float("evidence_decay", 0.95, "Weight of the running average of the evidence-based criterion.", 0.0, 1.0)

QUESTION = Question("E", "Why are calls to fit repeated?", CLAIMS)
ROUNDS = 3  # of the timing

Fit = Callable[..., keras.callbacks.History]


@dataclass
class Task:
    """A model, and data to train it on, to validate on, and fresh ones that nothing is chosen by.

    Attributes:
      arrays: seed -> (x, y, x_val, y_val, x_fresh, y_fresh).
      most: epochs that a training may last.
      validation_batch_size: as in fit.
    """

    restarts: Restarts
    arrays: Callable[[int], tuple[Any, ...]]
    most: int
    validation_batch_size: int | None = None

    def fit(self, seed: int, fit: Fit, model: keras.Model, **arguments: Any) -> keras.callbacks.History:
        x, y, x_val, y_val, _, _ = self.arrays(seed)
        arguments["validation_batch_size"] = self.validation_batch_size
        return fit(model, x, y, validation_data=(x_val, y_val), verbose=0, **arguments)

    def losses(self, seed: int, model: keras.Model) -> list[float]:
        """[loss on the validation data, loss on fresh data, accuracy on fresh data]"""
        _, _, x_val, y_val, x_fresh, y_fresh = self.arrays(seed)
        validation = fitcore.evaluate(model, x_val, y_val, batch_size=1000, verbose=0)[0]
        return [float(validation), *map(float, fitcore.evaluate(model, x_fresh, y_fresh, batch_size=1000, verbose=0))]


def dense() -> keras.Model:
    """The model of all three examples."""
    model = keras.Sequential([keras.Input((10,)), layers.Dense(128, activation="relu"), layers.Dense(1, activation="sigmoid")])
    model.compile(keras.optimizers.Adam(1e-3), "binary_crossentropy", metrics=["accuracy"])
    return model


def digits_model() -> keras.Model:
    body = [layers.Flatten(), layers.Dense(128, activation="relu"), layers.Dense(10, activation="softmax")]
    model = keras.Sequential([keras.Input((14, 14)), *body])
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


@functools.lru_cache(maxsize=1)
def random_labels(seed: int) -> tuple[Any, ...]:
    """800 rows to train on, 200 to validate on, 10,000 fresh ones; normal inputs, labels 0 or 1 at random."""
    source = np.random.default_rng([seed, 5])
    x, y = source.normal(size=(11_000, 10)).astype("float32"), source.integers(2, size=(11_000, 1)).astype("float32")
    return x[:800], y[:800], x[800:1000], y[800:1000], x[1000:], y[1000:]


# --- ways to stop ------------------------------------------------------------------------------------------------------------


@dataclass
class Ended:
    """Where a training ended: after how many epochs, and with what."""

    epochs: float
    weights_sha256: str
    losses: list[float]


def by_hand(task: Task, seed: int, model: keras.Model, fit: Fit = fitcore.fit) -> float:
    """E2: up to task.most calls of one epoch; stops when more than PATIENCE in a row fail to improve."""
    best, waited = np.inf, 0
    for call in range(task.most):
        val_loss = task.fit(seed, fit, model, epochs=1).history["val_loss"][0]
        best, waited = (val_loss, 0) if val_loss < best else (best, waited + 1)
        if waited > PATIENCE.value:
            return call + 1
    return task.most


def by_callback(task: Task, seed: int, model: keras.Model, fit: Fit = fitcore.fit) -> float:
    """E3: one call with Keras's EarlyStopping."""
    stopping = keras.callbacks.EarlyStopping(monitor="val_loss", patience=PATIENCE.value, restore_best_weights=True)
    return len(task.fit(seed, fit, model, epochs=task.most, callbacks=[stopping]).epoch)


def by_hook_over_calls(task: Task, seed: int, model: keras.Model) -> float:
    """fitcore's EarlyStopping, which outlives the calls, given to calls of one epoch."""
    stopping = fitcore.EarlyStopping(patience=PATIENCE.value, restore_best=True)
    for call in range(task.most):
        if task.fit(seed, fitcore.fit, model, epochs=1, hooks=[stopping]).stop_reason is not None:
            return call + 1
    return task.most


def by_rule(task: Task, seed: int, model: keras.Model) -> float:
    """fitcore's stop rule alone, in one call: nothing is put back."""
    stopping = fitcore.StopOn(fitcore.Patience(PATIENCE.value))
    return len(task.fit(seed, fitcore.fit, model, epochs=task.most, hooks=[stopping]).epoch)


def by_evidence(task: Task, seed: int, model: keras.Model) -> float:
    """Mahsereci et al. (2017), averaged: once gradients are no more than noise. It sees no validation data."""
    above_zero = fitcore.Smoothed(fitcore.Target(0.0, mode="max"), DECAY.value)
    stopping = fitcore.StopOn(above_zero, "noise/evidence")
    steps_per_epoch = -(-len(task.arrays(seed)[0]) // 32)
    history = task.fit(seed, fitcore.fit, model, epochs=task.most, hooks=[stopping])
    return float(history.account["steps"] / steps_per_epoch)


def not_at_all(task: Task, seed: int, model: keras.Model) -> float:
    task.fit(seed, fitcore.fit, model, epochs=task.most)
    return task.most


WAYS: Mapping[str, Callable[..., float]] = {
    "by hand (E2)": by_hand,
    "Keras's EarlyStopping (E3)": by_callback,
    "fitcore.EarlyStopping over calls": by_hook_over_calls,
    "fitcore.StopOn(Patience)": by_rule,
    "evidence-based criterion": by_evidence,
    "not at all": not_at_all,
}


def ended(task: Task, seed: int, way: Callable[..., float], **arguments: Any) -> Ended:
    """By one way, from where the task's last start was."""
    model = task.restarts.again()
    epochs = way(task, seed, model, **arguments)
    return Ended(epochs, launch.weights_sha256(model), task.losses(seed, model))


def by_all_ways(findings: Findings, task: Task) -> dict[str, list[Ended]]:
    """Where each way ends, from each seed."""
    ends: dict[str, list[Ended]] = {name: [] for name in WAYS}
    for seed in findings.each_seed():
        task.restarts.start(seed)
        for name, way in WAYS.items():
            ends[name].append(ended(task, seed, way))
    return ends


# --- the examples ------------------------------------------------------------------------------------------------------------


def e1(findings: Findings, task: Task) -> dict[str, Any]:
    """20 calls of one epoch, and one call of 20; with validation, so that there is something to monitor."""
    seeds, calls = findings.seeds(), CALLS.value
    findings.begin(f"E1: {calls} calls of one epoch and one call, {len(seeds)} seeds")
    bits: dict[str, list[bool]] = {"fitcore": [], "Keras": []}
    shares, ratio, curves, fresh, seen, recorded = [], [], [], [], 0, 0
    for seed in seeds:
        for name, fit in {"fitcore": fitcore.fit, "Keras": keras.Model.fit}.items():
            if name == "Keras" and seed >= seeds[0] + (3 if FULL.value else 1):
                continue
            model = task.restarts.start(seed) if name == "fitcore" else task.restarts.again()
            shown = [task.fit(seed, fit, model, epochs=1).history for _ in range(calls)]
            end = launch.weights_sha256(model)
            task.restarts.again()
            given = findings.records("E1", seed) if name == "fitcore" else {}
            one = task.fit(seed, fit, model, epochs=calls, **given)
            bits[name].append(launch.weights_sha256(model) == end)
            by_calls = [call[key][0] for key in shown[0] for call in shown]
            by_one = [value for key in shown[0] for value in one.history.get(key, [])]
            if name == "fitcore":
                shares.append(float(np.mean([a == b for a, b in zip(by_calls, by_one, strict=True)])))
                ratio.append(by_calls[calls - 1] / by_one[calls - 1])
                seen, recorded = len(by_calls), len(by_one) + one.account["steps"]
                curves.append([one.history[key] for key in ("loss", "val_loss", "val_accuracy")])
                fresh.append(task.losses(seed, model))
    array = np.array(curves)
    found = {
        "training loss after the first epoch": mean_of(array[:, 0, 0]),
        f"after epoch {calls}": mean_of(array[:, 0, -1]),
        f"{calls} calls end in the bits of one call of {calls} epochs, fitcore": share(bits["fitcore"]),
        "Keras": share(bits["Keras"]),
        "accuracy on 10,000 fresh rows, above one half": mean_of([each[2] - 0.5 for each in fresh], "%"),
    }
    findings.example("E1", f"{calls} calls of fit(epochs=1)", found)
    return {
        "bits": bits,
        "ratio": paired_ratio(ratio, np.ones(len(ratio))),
        "shown": mean_of(shares, "%"),
        "seen": seen,
        "recorded": recorded,
        "curves": array,
    }


def e2_and_e3(findings: Findings, task: Task) -> dict[str, list[Ended]]:
    """Early stopping by hand, by the callback, and in four other ways."""
    seeds = findings.seeds()
    findings.begin(f"E2, E3: early stopping in {len(WAYS)} ways, {len(seeds)} seeds", size=2)
    ends = by_all_ways(findings, task)
    second, third = ends["by hand (E2)"], ends["Keras's EarlyStopping (E3)"]
    findings.begin("E2, E3: the same by Keras")
    task.restarts.start(seeds[0])
    same = {
        name: ended(task, seeds[0], way, fit=keras.Model.fit) == ends[name][0]
        for name, way in list(WAYS.items())[:2]  # those that Keras can do
    }
    for id, title, mine, name in (
        ("E2", "validation and early stopping by hand", second, "by hand (E2)"),
        ("E3", "one call with EarlyStopping", third, "Keras's EarlyStopping (E3)"),
    ):
        found = {
            "epochs trained": mean_of([end.epochs for end in mine]),
            "validation loss of the weights at the end": mean_of([end.losses[0] for end in mine]),
            "loss on 10,000 fresh rows": mean_of([end.losses[1] for end in mine]),
            "by Keras (first seed): the same epochs, weights and losses, bit for bit": same[name],
        }
        if id == "E3":
            found["fitcore.EarlyStopping over calls of one epoch ends as it does, bit for bit"] = share(
                [a == b for a, b in zip(third, ends["fitcore.EarlyStopping over calls"])]
            )
        findings.example(id, title, found)
    return ends


def compared(findings: Findings, what: str, most: int, ends: dict[str, list[Ended]]) -> None:
    """The ways to stop, beyond the claims."""
    base = ends["not at all"]
    found: dict[str, Any] = {}
    for name, each in ends.items():
        found[f"{name}: epochs"] = mean_of([end.epochs for end in each])
        found[f"{name}: loss on fresh data"] = mean_of([end.losses[1] for end in each])
        if name != "not at all":
            factor = paired_ratio([end.losses[1] for end in each], [end.losses[1] for end in base])
            found[f"{name}: factor of that of not stopping"] = factor
            found[f"{name}: accuracy on fresh data, less that of not stopping"] = paired(
                [end.losses[2] for end in each], [end.losses[2] for end in base], "%"
            )
    findings.beyond(f"Ways to stop, {what}, up to {most} epochs", found)


def on_digits(findings: Findings, most: int) -> dict[str, list[Ended]]:
    """The same ways on real digits, few enough to overfit."""
    findings.begin(f"early stopping on digits in {len(WAYS)} ways", size=2)
    digits = data.digits(MNIST.value)
    findings.used(f"{digits.about}; every other pixel; 500 to train on, 500 to validate on, those to test on as fresh data")
    x, y = digits.x[:, ::2, ::2], digits.y
    arrays = (x[:500], y[:500], x[500:1000], y[500:1000], digits.x_test[:, ::2, ::2], digits.y_test)
    return by_all_ways(findings, Task(Restarts(digits_model), lambda seed: arrays, most, validation_batch_size=500))


def costs(findings: Findings, task: Task) -> None:
    """Seconds of calls and of one call, warm, in turns: Keras's and fitcore's."""
    findings.begin("what repeated calls cost")
    seed, calls = findings.run.seed, CALLS.value if FULL.value else max(1, CALLS.value // 4)
    x, y = task.arrays(seed)[:2]
    model = task.restarts.start(seed)
    times: dict[str, list[float]] = {}
    for _ in range(1 + (3 * ROUNDS if FULL.value else ROUNDS)):
        for name, fit in {"Keras": keras.Model.fit, "fitcore": fitcore.fit}.items():
            for what, fits, epochs in ((f"{calls} calls of one epoch", calls, 1), (f"one call of {calls} epochs", 1, calls)):
                start = time.perf_counter()
                for _ in range(fits):
                    fit(model, x, y, epochs=epochs, verbose=0)
                times.setdefault(f"E1's model, {what}, {name}, median", []).append(time.perf_counter() - start)
    for name, seconds in times.items():
        findings.took(name, statistics.median(seconds[1:]))  # the first round traces


def draw(axes: Any, first: dict[str, Any], ends: dict[str, dict[str, list[Ended]]]) -> None:
    epochs = np.arange(1, first["curves"].shape[2] + 1)
    for row, name in enumerate(("training", "validation")):
        losses = first["curves"][:, row]
        axes[0].plot(epochs, losses.mean(0), label=name)
        axes[0].fill_between(epochs, losses.min(0), losses.max(0), alpha=0.2, linewidth=0)
    axes[0].axhline(np.log(2), color="gray", linewidth=0.8, linestyle=":", label="ln 2, knowing nothing")
    axes[0].set(xlabel="epochs, or calls", ylabel="loss (mean, range over seeds)", title="E1, random labels")
    axes[0].legend()
    for each, (what, found) in zip(axes[1:], ends.items()):
        for name, those in found.items():
            each.scatter([end.epochs for end in those], [end.losses[1] for end in those], s=12, alpha=0.6, label=name)
        each.set(
            xlabel="epochs trained", ylabel="loss on fresh data", xscale="log", yscale="log", title=f"ways to stop, {what}"
        )
    axes[1].legend(fontsize="small")


def main(directory: launch.RunDirectory) -> dict[str, Any]:
    findings = Findings(QUESTION, directory, parts=7)
    findings.used("1,000 rows made for each seed: 10 normal inputs, labels 0 or 1 at random; 10,000 fresh rows beside them")
    task = Task(Restarts(dense), random_labels, MOST.value)
    first = e1(findings, task)
    ends = e2_and_e3(findings, task)
    second, third = ends["by hand (E2)"], ends["Keras's EarlyStopping (E3)"]
    findings.settle(
        "E-a",
        same_bits_by_fitcore=share(first["bits"]["fitcore"]),
        same_bits_by_Keras=share(first["bits"]["Keras"]),
        training_loss_of_calls_to_one_call=first["ratio"],
    )
    findings.settle(
        "E-b",
        values_of_calls_found_in_one_call=first["shown"],
        values_seen_by_calls=first["seen"],
        values_recorded_by_one_call=first["recorded"],
    )
    findings.settle(
        "E-c",
        epochs_by_hand_less_callback=paired([end.epochs for end in second], [end.epochs for end in third], "epochs"),
        ends_in_the_same_weights=share([a.weights_sha256 == b.weights_sha256 for a, b in zip(second, third)]),
        validation_loss_by_hand_to_callback=ratio_of(second, third, 0),
        loss_on_fresh_data_by_hand_to_callback=ratio_of(second, third, 1),
    )
    curves = first["curves"]
    findings.settle(
        "E-d",
        accuracy_above_one_half=mean_of(curves[:, 2].mean(1) - 0.5, "%"),
        change_of_the_validation_loss_as_long_as_E1=paired(curves[:, 1, -1], curves[:, 1, 0]),
        change_of_the_validation_loss_as_long_as_E2_may_be=paired(
            [end.losses[0] for end in ends["not at all"]], curves[:, 1, 0]
        ),
        fresh_loss_above_validation_loss=paired([end.losses[1] for end in third], [end.losses[0] for end in third]),
    )
    most_digits = MOST.value if FULL.value else min(MOST.value, 30)  # they have overfitted by then
    with_digits = on_digits(findings, most_digits)
    compared(findings, "random labels", MOST.value, ends)
    compared(findings, "500 real digits", most_digits, with_digits)
    costs(findings, task)
    all_ends = {"random labels": ends, "digits": with_digits}
    findings.plot("E: calls, epochs, and when to stop", lambda axes: draw(axes, first, all_ends), panels=3)
    return findings.result()


def ratio_of(one: list[Ended], other: list[Ended], loss: int) -> Effect:
    return paired_ratio([end.losses[loss] for end in one], [end.losses[loss] for end in other])


if __name__ == "__main__":
    run(main)
