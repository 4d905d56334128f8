"""C. An LSTM trained by 100 calls of fit(epochs=1) against one call of fit(epochs=100): three examples, five claims.

    python -m experiments.lstm_fits                    # 80 epochs, about a minute
    python -m experiments.lstm_fits --full             # 100 epochs, by Keras too, and more seeds
    python -m experiments.lstm_fits --series=co2 --epochs=60 --repeats=5

LSTM(50) and Dense(1) on a real time series, Adam, mean squared error, batches of 32, validation data. C1 is one call, C2 many
calls with one EarlyStopping, C3 many calls with a schedule of the rate, which raises as it is written. Measured are whether
calls and epochs are one computation, bit for bit, by Keras and by fitcore, and what they cost; when who stops; what the
schedule makes of the rate; and what fresh noise on the inputs between the epochs does.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import flags
from keras import layers

import fitcore
from experiments.claims import data
from experiments.claims.question import FULL, Findings, Question, raised, run
from experiments.claims.restart import Restarts
from experiments.claims.rules_c import CLAIMS
from experiments.claims.statistics import Effect, mean_of, median_ratio, paired_ratio, share
from fitcore import launch

SERIES = flags.DEFINE_enum("series", "sunspots", ["sunspots", "co2"], "The time series.")
EPOCHS = flags.DEFINE_integer("epochs", None, "Epochs of a run, and calls of one epoch. Default: 80, --full: 100.", 2)
KERAS_EPOCHS = flags.DEFINE_integer("keras_epochs", None, "The same where Keras runs too. Default: 20, --full: --epochs.", 2)
SHORTER = flags.DEFINE_integer(
    "shorter", None, "Epochs of the runs with noise, and of those that forget. Default: 40, --full: --epochs.", 2
)
PATIENCE = flags.DEFINE_integer("patience", 10, "Epochs without improvement that early stopping waits for.", lower_bound=1)
NOISE = flags.DEFINE_list("noise", ["0.1", "0.3"], "Standard deviations of the inputs' noise; the inputs' own is 1.")

QUESTION = Question("C", "An LSTM: 100 calls of fit(epochs=1) against one of fit(epochs=100)", CLAIMS)
ROUNDS, ROUND_EPOCHS = {"Keras": 20, "fitcore": 60}, 2  # of the timing

Fit = Callable[..., keras.callbacks.History]


def lstm(optimizer: Any = "adam") -> keras.Model:
    """The model of all three examples."""
    model = keras.Sequential([keras.Input((12, 1)), layers.LSTM(50), layers.Dense(1)])
    model.compile(optimizer, "mse")
    return model


def tenths(epoch: int, rate: float) -> float:
    """C3's schedule: unchanged before epoch 50, then a tenth of what it was, in each epoch."""
    return rate if epoch < 50 else rate * 0.1


class Lab:
    """The series, the model and the ways to train it."""

    def __init__(self, seed: int) -> None:
        self.series = data.co2() if SERIES.value == "co2" else data.sunspots()
        self.restarts = Restarts(lstm)
        self.seed = seed
        self.epochs = EPOCHS.value or (100 if FULL.value else 80)
        self.validation = {"validation_data": (self.series.x_test, self.series.y_test), "verbose": 0}

    def one_call(self, fit: Fit, model: keras.Model, epochs: int, **arguments: Any) -> keras.callbacks.History:
        return fit(model, self.series.x, self.series.y, batch_size=32, epochs=epochs, **self.validation, **arguments)

    def calls(
        self,
        fit: Fit,
        model: keras.Model,
        epochs: int,
        before: Callable[[], object] = lambda: None,
        noise: float = 0.0,
        **arguments: Any,
    ) -> list[keras.callbacks.History]:
        """Up to `epochs` calls of one epoch each: fewer if one asks to stop. `before` is called before each of them."""
        random, histories = np.random.default_rng([self.seed, 1]), []
        for _ in range(epochs):
            before()
            x = self.series.x
            if noise:
                x = x + noise * random.standard_normal(x.shape, np.float32)
            histories.append(fit(model, x, self.series.y, batch_size=32, epochs=1, **self.validation, **arguments))
            if model.stop_training or getattr(histories[-1], "stop_reason", None):
                break
        return histories

    def early_stopping(self) -> keras.callbacks.Callback:
        return keras.callbacks.EarlyStopping(monitor="val_loss", patience=PATIENCE.value, restore_best_weights=True)


def validation_losses(histories: list[keras.callbacks.History]) -> list[float]:
    return [history.history["val_loss"][-1] for history in histories]


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


# --- the examples ------------------------------------------------------------------------------------------------------------


def c1(findings: Findings, lab: Lab) -> dict[str, Any]:
    """One call, from each seed; what Keras and fitcore make of it, and of as many calls."""
    seeds, epochs = findings.seeds(), lab.epochs
    findings.begin(f"C1: one call of {epochs} epochs, {len(seeds)} seeds")
    losses, ends = [], []
    for seed in seeds:
        model = lab.restarts.start(seed)
        losses.append(lab.one_call(fitcore.fit, model, epochs, **findings.records("C1", seed)).history["val_loss"])
        ends.append(launch.weights_sha256(model))

    keras_epochs = KERAS_EPOCHS.value or (epochs if FULL.value else 20)
    findings.begin(f"C1: {keras_epochs} calls and one call, Keras and fitcore")
    lab.one_call(keras.Model.fit, lab.restarts.start(lab.seed), 1)  # so that no time below is tracing
    same_by_keras, same_by_both = [], []
    for seed in seeds[: 3 if FULL.value else 1]:
        bits = []
        for name, fit in {"Keras": keras.Model.fit, "fitcore": fitcore.fit}.items():
            for what, train in {"one call": lab.one_call, "calls of one epoch": lab.calls}.items():
                model = lab.restarts.start(seed)
                seconds, _ = timed(lambda: train(fit, model, keras_epochs))  # noqa: B023
                bits.append(launch.weights_sha256(model))
                findings.took(f"C1, seed {seed}: {keras_epochs} epochs by {name}, {what}", seconds)
        same_by_keras.append(bits[0] == bits[1])
        same_by_both.append(len(set(bits)) == 1)
    found = {
        "validation loss after the first epoch": mean_of(np.array(losses)[:, 0]),
        "after the last": mean_of(np.array(losses)[:, -1]),
        f"{keras_epochs} calls of Keras's end in the bits of one": share(same_by_keras),
        "fitcore's, by one call and by many, in Keras's bits": share(same_by_both),
    }
    findings.example("C1", f"LSTM(50), one call of {epochs} epochs", found)
    return {"losses": np.array(losses), "ends": ends, "same by Keras": share(same_by_keras)}


def c2(findings: Findings, lab: Lab, first: dict[str, Any]) -> dict[str, Any]:
    """Calls of one epoch that share one EarlyStopping; beside them one call with it, and calls with fitcore's StopOn."""
    seeds, epochs = findings.seeds(), lab.epochs
    findings.begin(f"C2: {epochs} calls with one EarlyStopping, {len(seeds)} seeds")
    same, ratio, as_one, made = [], [], [], {"one call": [], "calls": [], "fitcore": []}  # type: ignore[var-annotated]
    for seed, losses, end in zip(seeds, first["losses"], first["ends"]):
        model = lab.restarts.start(seed)
        histories = lab.calls(fitcore.fit, model, epochs, callbacks=[lab.early_stopping()])
        made["calls"].append(len(histories))
        same.append(launch.weights_sha256(model) == end)
        ratio.append(validation_losses(histories)[-1] / losses[-1])
    findings.begin("C2: one call with EarlyStopping, calls with fitcore's")
    for seed in seeds:
        model = lab.restarts.start(seed)
        made["one call"].append(len(lab.one_call(fitcore.fit, model, epochs, callbacks=[lab.early_stopping()]).epoch))
        end = launch.weights_sha256(model)
        model = lab.restarts.start(seed)
        stopping = fitcore.EarlyStopping(patience=PATIENCE.value, restore_best=True)
        made["fitcore"].append(len(lab.calls(fitcore.fit, model, epochs, hooks=[stopping])))
        if made["fitcore"][-1] < epochs:  # else nothing has asked it to restore anything yet
            as_one.append(launch.weights_sha256(model) == end)

    never: dict[str, Any] = {
        "callbacks": [keras.callbacks.EarlyStopping(patience=1, min_delta=1e9)]
    }  # nothing is an improvement
    model = lab.restarts.start(lab.seed)
    six = [len(lab.one_call(fit, model, 6, **never).epoch) for fit in (keras.Model.fit, fitcore.fit)]
    six_calls = [len(lab.calls(fit, model, 6, **never)) for fit in (keras.Model.fit, fitcore.fit)]
    found = {
        "epochs of one call with EarlyStopping": mean_of(made["one call"]),
        f"calls made of {epochs} with one EarlyStopping": mean_of(made["calls"]),
        "calls made with one fitcore.EarlyStopping, whose count outlives the call": mean_of(made["fitcore"]),
        "it stops the calls where Keras's stops one call": share([a == b for a, b in zip(made["fitcore"], made["one call"])]),
        "those that it stops end in the bits of one call with Keras's": share(as_one),
        "of six epochs that never improve, patience 1, done in one call (Keras, fitcore)": six,
        "in six calls (Keras, fitcore)": six_calls,
        "the calls end in the bits of one call without the callback, which restores nothing either": share(same),
    }
    findings.example("C2", f"{epochs} calls of one epoch with one EarlyStopping(val_loss, patience {PATIENCE.value})", found)
    stopped = {name: share([count < epochs for count in counts]) for name, counts in made.items()}
    return {"same": share(same), "ratio": paired_ratio(ratio, np.ones(len(ratio))), "stopped": stopped}


def c3(findings: Findings, lab: Lab) -> dict[str, Any]:
    """The schedule as it is written, as it is passed properly, and as it may have been meant."""
    findings.begin("C3: the schedule")
    as_written = raised(lambda: lstm(keras.optimizers.Adam(keras.callbacks.LearningRateScheduler(tenths))))

    ends: list[list[np.ndarray]] = []
    seen = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: ends.append(lab.restarts.model.get_weights()))
    schedule = keras.callbacks.LearningRateScheduler(tenths)
    model = lab.restarts.start(lab.seed)
    rates = lab.one_call(fitcore.fit, model, 100, callbacks=[schedule, seen]).history["learning_rate"]
    moved = [any((a != b).any() for a, b in zip(now, was)) for was, now in itertools.pairwise(ends)]

    model = lab.restarts.start(lab.seed)
    in_calls = [h.history["learning_rate"][0] for h in lab.calls(fitcore.fit, model, 100, callbacks=[schedule])]
    model = lab.restarts.start(lab.seed)
    for epoch in range(100):
        lab.one_call(fitcore.fit, model, epoch + 1, initial_epoch=epoch, callbacks=[schedule])
    same = all((a == b).all() for a, b in zip(model.get_weights(), ends[-1]))

    steps_per_epoch = -(-len(lab.series.x) // 32)
    keras.utils.set_random_seed(lab.seed)
    network = keras.Sequential([keras.Input((12, 1)), layers.LSTM(50), layers.Dense(1)])
    start = network.get_weights()
    results = []
    for calls in (1, 60):
        network.set_weights(start)
        engine = fitcore.Engine(
            network,
            optimizer=keras.optimizers.Adam(),
            loss=keras.losses.MeanSquaredError(),
            schedule=lambda step: tf.where(step < 50 * steps_per_epoch, 1e-3, 1e-4),  # a tenth once, from epoch 50 on
        )
        for _ in range(calls):
            history = engine.fit(
                lab.series.x, lab.series.y, batch_size=32, epochs=60 // calls, verbose=0, record=["step/learning_rate"]
            )
        results.append((launch.weights_sha256(network), history.steps["step/learning_rate"][-1]))
    found = {
        "rate in epochs 49, 50, 51, 60, 80, 99 of one call": [rates[e] for e in (49, 50, 51, 60, 80, 99)],
        "first epoch whose rate is exactly 0": rates.index(0.0) if 0.0 in rates else "none",
        "last epoch that changed any bit of a weight": max((e + 1 for e, does in enumerate(moved) if does), default=0),
        "rate in the last of 100 calls of one epoch, each of which is its epoch 0": in_calls[-1],
        "100 calls that are told their epoch by initial_epoch end in the bits of one call": same,
        "fitcore's schedule as a function of the step, a tenth once: 60 calls end in the bits of one": results[0] == results[1],
        "its rate at the end": results[0][1],
    }
    findings.example("C3", "a schedule of the rate, handed to Adam as a LearningRateScheduler", found, as_written)
    wanted = {epoch: rates[epoch] for epoch in (49, 50, 51, 99)}
    return {"as written": as_written, "rates": rates, "in calls": in_calls, "wanted": wanted}


# --- beyond the examples -----------------------------------------------------------------------------------------------------


def forgetful(findings: Findings, lab: Lab, epochs: int) -> np.ndarray:
    """Validation losses, a row per seed, of calls that each start from a fresh optimizer."""
    findings.begin(f"{epochs} calls that forget the optimizer's state")
    losses = []
    for seed in findings.seeds():
        model = lab.restarts.start(seed)
        variables = model.optimizer.variables
        start = [variable.numpy() for variable in variables]

        def forget() -> None:
            for variable, value in zip(variables, start):  # noqa: B023
                variable.assign(value)

        losses.append(validation_losses(lab.calls(fitcore.fit, model, epochs, before=forget)))
    return np.array(losses)


def noisy(findings: Findings, lab: Lab, epochs: int, noise: float) -> np.ndarray:
    """Validation losses, a row per seed, of calls with fresh noise on the inputs."""
    findings.begin(f"{epochs} epochs with fresh noise of {noise} in each")
    losses = []
    for seed in findings.seeds():
        lab.seed = seed
        losses.append(validation_losses(lab.calls(fitcore.fit, lab.restarts.start(seed), epochs, noise=noise)))
    lab.seed = findings.run.seed
    return np.array(losses)


def overheads(findings: Findings, lab: Lab) -> dict[str, Effect]:
    """How many times as long calls take as one call, warm, in turns."""
    findings.begin("what the calls cost")
    seconds: dict[tuple[str, str], list[float]] = {}
    model = lab.restarts.start(lab.seed)
    ways = [("one call", lab.one_call), ("calls", lab.calls)]
    for name, fit in {"Keras": keras.Model.fit, "fitcore": fitcore.fit}.items():
        lab.one_call(fit, model, 1)
        for _ in range(ROUNDS[name] * (3 if FULL.value else 1)):
            ways.reverse()  # the first may be at a disadvantage
            for what, train in ways:
                took, _ = timed(lambda: train(fit, model, ROUND_EPOCHS))  # noqa: B023
                seconds.setdefault((name, what), []).append(took)
    for (name, what), times in seconds.items():
        findings.took(f"an epoch with validation by {name}, {what}, median", statistics.median(times) / ROUND_EPOCHS)
    return {name: median_ratio(seconds[name, "calls"], seconds[name, "one call"]) for name in ("Keras", "fitcore")}


def draw(axes: Any, curves: dict[str, np.ndarray], third: dict[str, Any]) -> None:
    for name, losses in curves.items():
        epochs = np.arange(1, losses.shape[1] + 1)
        axes[0].plot(epochs, losses.mean(0), label=name)
        axes[0].fill_between(epochs, losses.min(0), losses.max(0), alpha=0.15, linewidth=0)
    axes[0].set(yscale="log", xlabel="epochs", ylabel="validation loss (mean, range over seeds)", title=SERIES.value)
    axes[0].legend()
    axes[1].plot(np.maximum(third["rates"], 1e-50), label="one call of 100 epochs")
    axes[1].plot(third["in calls"], label="100 calls of one epoch")
    axes[1].set(yscale="log", xlabel="epoch", ylabel="learning rate (0 drawn at 1e-50)", title="C3's schedule")
    axes[1].legend()


def main(directory: launch.RunDirectory) -> dict[str, Any]:
    lab, strengths = Lab(directory.seed), [float(each) for each in NOISE.value]
    findings = Findings(QUESTION, directory, parts=7 + len(strengths))
    findings.used(lab.series.about)
    first = c1(findings, lab)
    second = c2(findings, lab, first)
    third = c3(findings, lab)
    shorter = min(SHORTER.value or (lab.epochs if FULL.value else 40), lab.epochs)
    kept = first["losses"][:, shorter - 1]
    forgets = forgetful(findings, lab, shorter)
    with_noise = {noise: noisy(findings, lab, shorter, noise) for noise in strengths}
    findings.settle(
        "C-a",
        same_bits_by_fitcore=second["same"],
        same_bits_by_Keras=first["same by Keras"],
        validation_loss_of_calls_to_one_call=second["ratio"],
        validation_loss_if_each_call_forgets_the_optimizer=paired_ratio(forgets[:, -1], kept),
    )
    findings.settle(
        "C-b",
        one_call_stopped=second["stopped"]["one call"],
        calls_stopped_by_the_callback=second["stopped"]["calls"],
        calls_stopped_by_a_count_that_lasts=second["stopped"]["fitcore"],
    )
    findings.settle("C-c", as_written=third["as written"], rate_in_epoch=third["wanted"])
    times = overheads(findings, lab)
    findings.settle("C-d", calls_to_one_call_by_Keras=times["Keras"], calls_to_one_call_by_fitcore=times["fitcore"])
    lowest = first["losses"][:, :shorter].min(1)
    findings.settle(
        "C-e",
        validation_loss_at_the_end_by_noise={str(s): paired_ratio(found[:, -1], kept) for s, found in with_noise.items()},
        lowest_validation_loss_by_noise={str(s): paired_ratio(found.min(1), lowest) for s, found in with_noise.items()},
    )
    curves = {"one call, or calls": first["losses"], "calls that forget the optimizer": forgets}
    curves |= {f"fresh noise of {noise}": losses for noise, losses in with_noise.items()}
    findings.plot("C: calls and epochs", lambda axes: draw(axes, curves, third), panels=2)
    return findings.result()


if __name__ == "__main__":
    run(main)
