"""D. Can train_on_batch give the same loss and accuracy in each epoch? Three examples, four claims.

    python -m experiments.on_batch                    # about a minute
    python -m experiments.on_batch --full             # more seeds
    python -m experiments.on_batch --epochs=20 --rows=320

1,000 rows of 10 uniform inputs with random labels, Dense(64) and Dense(1), Adam, batches of 32, the last incomplete one
dropped. D1 trains by train_on_batch in order, D2 by fit with and without shuffling, D3 is D1 with Python's and NumPy's seeds
set. Measured are which bits agree between epochs, between runs and between processes; what the order of rows does, inside a
batch and between batches; and, of all that could make a seeded run vary, what does.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import flags
from keras import layers

import fitcore
from experiments.claims.question import Findings, Question, run
from experiments.claims.restart import Restarts
from experiments.claims.rules_d import CLAIMS
from experiments.claims.statistics import Effect, mean_of, paired, share
from fitcore.command_line import launch

EPOCHS = flags.DEFINE_integer("epochs", 5, "Epochs of a training.", lower_bound=2)
ROWS = flags.DEFINE_integer("rows", 1000, "Rows of data.", lower_bound=64)
PROBE = flags.DEFINE_integer(
    "probe", None, "Only run D1 under this seed and D3, and write their digests: another process's.", 0
)

QUESTION = Question("D", "Can train_on_batch give the same loss and accuracy in each epoch?", CLAIMS)
BATCH = 32

Step = Callable[..., Any]
Losses = list[list[float]]


def dense(dtype: str = "float32", dropout: float = 0.0) -> keras.Model:
    """The model of all three examples; `dropout` adds a layer that they don't have."""
    body = [layers.Dense(64, activation="relu", dtype=dtype)] + [layers.Dropout(dropout)] * (dropout > 0)
    model = keras.Sequential([keras.Input((10,), dtype=dtype), *body, layers.Dense(1, activation="sigmoid", dtype=dtype)])
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    return model


def rows(seed: int) -> tuple[Any, Any]:
    """Uniform inputs, float32 [n, 10], and random labels, float32 [n, 1]; n a multiple of the batch size."""
    source, n = np.random.default_rng([seed, 4]), ROWS.value // BATCH * BATCH
    return source.random((ROWS.value, 10))[:n].astype("float32"), source.integers(2, size=(ROWS.value, 1))[:n].astype("float32")


def batch_by_batch(model: keras.Model, x: Any, y: Any, epochs: int, step: Step = fitcore.train_on_batch) -> Losses:
    """train_on_batch in order; returns [loss and accuracy of each batch, in a row] for each epoch.

    The metrics start anew with each epoch: Keras's train_on_batch gives the batch's own values since 3.15 and the running means
    before, in both cases something that equal epochs have equal.
    """
    found = []
    for _ in range(epochs):
        model.reset_metrics()
        logs = [step(model, x[i : i + BATCH], y[i : i + BATCH]) for i in range(0, len(x), BATCH)]
        found.append([float(value) for both in logs for value in both])
    return found


def flat(weights: Sequence[Any]) -> Any:
    return np.concatenate([np.ravel(weight) for weight in weights]).astype(np.float64)


def apart(one: Any, other: Any, start: Any) -> float:
    """Distance between two ends over the way that the first travelled."""
    return float(np.linalg.norm(flat(one) - flat(other)) / np.linalg.norm(flat(one) - flat(start)))


# --- in other processes ------------------------------------------------------------------------------------------------------


def d1_digest(seed: int) -> dict[str, str]:
    """D1 under a seed: its weights at the end, and all that train_on_batch returned."""
    keras.utils.set_random_seed(seed)
    model = dense()
    losses = batch_by_batch(model, *rows(seed), EPOCHS.value)
    return {"weights": launch.weights_sha256(model), "losses": json.dumps(losses)}


def d3_digest() -> dict[str, str]:
    """D3: Python and NumPy seeded, TensorFlow not; and then one epoch of fit(shuffle=True), whose order TensorFlow draws."""
    random.seed(42)
    np.random.seed(42)
    x, y = np.random.rand(ROWS.value, 10), np.random.randint(2, size=(ROWS.value, 1))
    model = dense()
    batch_by_batch(model, x, y, EPOCHS.value)
    by_batches = launch.weights_sha256(model)
    fitcore.fit(model, x, y, shuffle=True, verbose=0)
    return {"weights": by_batches, "after fit(shuffle=True)": launch.weights_sha256(model)}


class Elsewhere:
    """Other processes that do the same, each with another seed of TensorFlow's outside what the examples seed."""

    KINDS: Mapping[str, list[str]] = {
        "op determinism": ["--deterministic"],
        "no op determinism, as many threads as TensorFlow likes": ["--nodeterministic", "--threads=0"],
    }

    def __init__(self, directory: launch.RunDirectory) -> None:
        self._running = {}
        for number, (kind, options) in enumerate(self.KINDS.items()):
            folder = directory.path / kind.replace(",", "").replace(" ", "_")
            command = [
                sys.executable,
                "-m",
                "experiments.on_batch",
                f"--logdir={folder}",
                f"--probe={directory.seed}",
                *options,
            ]
            command += [f"--epochs={EPOCHS.value}", f"--rows={ROWS.value}", f"--seed={directory.seed + 1000 * (number + 1)}"]
            with open(directory.path / f"{folder.name}.txt", "w") as log:
                process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
            self._running[kind] = (process, folder)

    def digests(self) -> dict[str, dict[str, Any]]:
        """What they found, by kind."""
        found = {}
        for kind, (process, folder) in self._running.items():
            if process.wait() != 0:
                raise RuntimeError(f"{kind}: that process failed; what it wrote is in {folder}.txt")
            found[kind] = json.loads((folder / "result.json").read_text())
        return found


# --- the examples ------------------------------------------------------------------------------------------------------------


def d1(findings: Findings, restarts: Restarts) -> tuple[Effect, Effect]:
    """train_on_batch in order; and the same with the weights held."""
    seeds = findings.seeds()
    findings.begin(f"D1: train_on_batch in order, {len(seeds)} seeds")
    equal, held, first, last = [], [], [], []
    for seed in seeds:
        x, y = rows(seed)
        model = restarts.start(seed)
        moving = batch_by_batch(model, x, y, EPOCHS.value)
        model = restarts.start(seed)
        model.optimizer.learning_rate.assign(0.0)
        still = batch_by_batch(model, x, y, 2)
        equal.append(any(moving[0] == epoch for epoch in moving[1:]))
        held.append(still[0] == still[1])
        first.append(float(np.mean(moving[0][::2])))
        last.append(float(np.mean(moving[-1][::2])))
    x, y = rows(seeds[0])
    by_keras = batch_by_batch(restarts.start(seeds[0]), x, y, EPOCHS.value, keras.Model.train_on_batch)
    again = batch_by_batch(restarts.start(seeds[0]), x, y, EPOCHS.value)
    found = {
        "mean loss that train_on_batch returns in the first epoch": mean_of(first),
        f"in epoch {EPOCHS.value}": mean_of(last),
        "runs in which a later epoch has all values of the first": share(equal),
        "with the weights held by a rate of 0": share(held),
        "Keras's train_on_batch returns the same bits as fitcore's (first seed)": by_keras == again,
    }
    findings.example("D1", f"train_on_batch in order, {EPOCHS.value} epochs of {len(x) // BATCH} batches", found)
    return share(equal), share(held)


def d2(findings: Findings, restarts: Restarts) -> dict[str, Any]:
    """fit with shuffle=False, "batch" and True."""
    seeds = findings.seeds()
    findings.begin(f"D2: fit with and without shuffling, {len(seeds)} seeds")
    distances: dict[str, list[float]] = {"batch": [], "True": []}
    losses: dict[str, list[float]] = {"False": [], "batch": [], "True": []}
    curves = []
    for seed in seeds:
        x, y = rows(seed)
        ends = {}
        for shuffle in (False, "batch", True):
            model = restarts.start(seed)
            start = model.get_weights()
            given = findings.records(f"D2 shuffle={shuffle}", seed)
            history = fitcore.fit(model, x, y, epochs=EPOCHS.value, shuffle=shuffle, verbose=0, **given)
            ends[str(shuffle)] = model.get_weights()
            losses[str(shuffle)].append(fitcore.evaluate(model, x, y, batch_size=len(x), verbose=0)[0])
            if seed == seeds[0]:
                curves.append((f"shuffle={shuffle}", history.steps["step/loss"]))
        for name, into in distances.items():
            into.append(apart(ends["False"], ends[name], start))
    loss = paired(losses["True"], losses["False"])
    found = {
        "ends apart over the way travelled, shuffle=True against False": mean_of(distances["True"], "%"),
        'shuffle="batch" against False': mean_of(distances["batch"], "%"),
        "final loss, shuffle=True less False": loss,
        **orders(findings.run.seed),
    }
    findings.example("D2", "fit(shuffle=False) and fit(shuffle=True)", found)
    return {
        "shuffling": mean_of(distances["True"], "%"),
        "in batches": mean_of(distances["batch"], "%"),
        "loss": loss,
        "loss by batch": paired(losses["batch"], losses["False"]),
        "curves": curves,
    }


def orders(seed: int, n: int = 50, epochs: int = 3) -> dict[str, Any]:
    """How many different orders Keras's fit(shuffle=True) visits rows in, in one fit and in three, after set_random_seed."""
    seen: list[int] = []

    def look(y_true: Any, y_pred: Any) -> Any:
        tf.py_function(lambda y: seen.append(int(y)), [tf.reshape(y_true, ())], [])
        return tf.reduce_mean(y_pred)

    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1)])
    model.compile("sgd", look)
    x, y = np.zeros((n, 1), "float32"), np.arange(n, dtype="float32")[:, None]
    model.fit(x, y, batch_size=1, epochs=epochs, verbose=0)
    for _ in range(epochs):
        model.fit(x, y, batch_size=1, verbose=0)
    visited = {tuple(seen[i : i + n]) for i in range(0, len(seen), n)}
    reshuffled = {tuple(fitcore.Reshuffle(seed).rows(epoch, n).numpy()) for epoch in range(2 * epochs)}
    return {
        f"orders that Keras's fit(shuffle=True) visits the rows in after set_random_seed, in {epochs} epochs and {epochs} more "
        "fits": len(visited),
        f"orders of fitcore.Reshuffle in {2 * epochs} epochs": len(reshuffled),
    }


def one_update(restarts: Restarts, seed: int, x: Any, y: Any) -> Any:
    """What the first update from a seed's weights adds to them."""
    model = restarts.start(seed)
    start = flat(model.get_weights())
    fitcore.train_on_batch(model, x, y)
    return flat(model.get_weights()) - start


def inside_a_batch(findings: Findings, restarts: Restarts) -> dict[str, Effect]:
    """What another order of a batch's rows, and what other rows, change of an update."""
    findings.begin("one update, its rows in another order")
    double = Restarts(lambda: dense("float64"))
    changed: dict[str, list[float]] = {"order": [], "order in float64": [], "other rows": []}
    for seed in findings.seeds():
        x, y = rows(seed)
        batch, other = slice(0, BATCH), slice(BATCH, 2 * BATCH)
        order = np.random.default_rng([seed, 5]).permutation(BATCH)
        for name, lab in {"order": restarts, "order in float64": double}.items():
            update, permuted = one_update(lab, seed, x[batch], y[batch]), one_update(lab, seed, x[order], y[order])
            changed[name].append(float(np.linalg.norm(permuted - update) / np.linalg.norm(update)))
            if name == "order":
                others = one_update(lab, seed, x[other], y[other])
                changed["other rows"].append(float(np.linalg.norm(others - update) / np.linalg.norm(update)))
    return {name: mean_of(values, "%") for name, values in changed.items()}


def d3(findings: Findings, elsewhere: Elsewhere) -> tuple[dict[str, bool], bool]:
    """D3 here and in other processes; and D1 there, for D-a."""
    findings.begin("D3: Python and NumPy seeded, in this process and in others")
    here, mine = d3_digest(), d1_digest(findings.run.seed)
    others = elsewhere.digests()
    same = {kind: found["D3"]["weights"] == here["weights"] for kind, found in others.items()}
    after_fit = [found["D3"]["after fit(shuffle=True)"] == here["after fit(shuffle=True)"] for found in others.values()]
    found = {
        **{f"ends in the same bits: {kind}": value for kind, value in same.items()},
        "and after one epoch of fit(shuffle=True), whose order is TensorFlow's seed's": any(after_fit),
    }
    findings.example("D3", "Python and NumPy seeded, batches in order, train_on_batch", found)
    return {kind: found["D1"] == mine for kind, found in others.items()}, all(same.values())


def sources(findings: Findings, restarts: Restarts, second: dict[str, Any]) -> tuple[Effect, dict[str, Effect]]:
    """Which of all that may vary between runs does: each alone, by what it changes of the final loss."""
    findings.begin("what varies, one at a time")
    with_dropout = Restarts(lambda: dense(dropout=0.5))
    differ, by = [], {"initial weights": [], "dropout's masks, where there is dropout": []}  # type: ignore[var-annotated]

    def final(model: keras.Model, x: Any, y: Any) -> float:
        fitcore.fit(model, x, y, epochs=EPOCHS.value, shuffle=False, verbose=0)
        return float(fitcore.evaluate(model, x, y, batch_size=len(x), verbose=0)[0])

    for seed in findings.seeds():
        x, y = rows(seed)
        losses, digests = [], []
        for _ in range(2):
            model = restarts.start(seed)
            losses.append(final(model, x, y))
            digests.append(launch.weights_sha256(model))
        differ.append(digests[0] != digests[1])
        by["initial weights"].append(abs(final(restarts.start(seed + 10_000), x, y) - losses[0]))
        weights = with_dropout.start(seed).get_weights()
        one = final(with_dropout.model, x, y)
        with_dropout.start(seed + 10_000).set_weights(weights)
        by["dropout's masks, where there is dropout"].append(abs(final(with_dropout.model, x, y) - one))
    effects = {"initial weights": mean_of(by.pop("initial weights"))}
    effects["order of the rows"] = mean_of(np.abs(second["loss"].values))
    effects["order inside batches"] = mean_of(np.abs(second["loss by batch"].values))
    return share(differ), effects | {name: mean_of(values) for name, values in by.items()}


def draw(axes: Any, second: dict[str, Any], effects: dict[str, Effect]) -> None:
    for name, losses in second["curves"]:
        axes[0].plot(np.arange(1, len(losses) + 1), losses, label=name, linewidth=0.8)
    axes[0].set(xlabel="update", ylabel="the batch's loss", title="D2, one seed")
    axes[0].legend()
    shown = {"repeating the optimizer's updates": 0.0} | {name: effect.mean for name, effect in effects.items()}
    axes[1].barh(list(shown), [max(value, 1e-10) for value in shown.values()])
    axes[1].set(xscale="log", xlim=(1e-10, 1), xlabel="mean change of the final loss (0 drawn at 1e-10)", title="what varies")
    axes[1].invert_yaxis()


def main(directory: launch.RunDirectory) -> dict[str, Any]:
    if PROBE.value is not None:
        return {"D3": d3_digest(), "D1": d1_digest(PROBE.value)}
    elsewhere = Elsewhere(directory)
    findings = Findings(QUESTION, directory, parts=5)
    findings.used(f"{ROWS.value} rows made for each seed: 10 uniform inputs, labels 0 or 1 at random")
    restarts = Restarts(dense)
    equal, held = d1(findings, restarts)
    second = d2(findings, restarts)
    changed = inside_a_batch(findings, restarts)
    differ, effects = sources(findings, restarts, second)
    runs_equal, same_elsewhere = d3(findings, elsewhere)
    findings.settle("D-a", epochs_equal_while_training=equal, epochs_equal_with_weights_held=held, runs_equal=runs_equal)
    findings.settle(
        "D-b",
        update_changed_by_order=changed["order"],
        update_changed_by_order_in_float64=changed["order in float64"],
        update_changed_by_other_rows=changed["other rows"],
    )
    findings.settle("D-c", repeats_that_differ=differ, loss_changed_by=effects, same_in_other_processes=same_elsewhere)
    findings.settle(
        "D-d",
        weights_apart_by_shuffling=second["shuffling"],
        weights_apart_by_order_in_batches=second["in batches"],
        loss_changed=second["loss"],
    )
    findings.plot("D: what makes runs differ", lambda axes: draw(axes, second, effects), panels=2)
    return findings.result()


if __name__ == "__main__":
    run(main)
