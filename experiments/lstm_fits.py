"""C. An LSTM trained by 100 calls of fit(epochs=1) against one call of fit(epochs=100): three examples, five claims.

    python -m experiments.lstm_fits                    # a fifth of it: 20 epochs, patience 2; about a minute
    python -m experiments.lstm_fits --full             # 100 epochs, patience 10, and more seeds
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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
from fitcore.command_line import launch

SERIES = flags.DEFINE_enum("series", "sunspots", ["sunspots", "co2"], "The time series.")
EPOCHS = flags.DEFINE_integer("epochs", None, "Epochs of a run, and calls of one epoch. Default: 20, --full: 100.", 2)
PATIENCE = flags.DEFINE_integer(
    "patience", None, "Epochs without improvement that early stopping waits for. Default: 2, --full: 10.", 1
)
NOISE = flags.DEFINE_list("noise", ["0.1", "0.3"], "Standard deviations of the inputs' noise; the inputs' own is 1.")

QUESTION = Question("C", "An LSTM: 100 calls of fit(epochs=1) against one of fit(epochs=100)", CLAIMS)
ROUND_EPOCHS = 2  # of the timing

Fit = Callable[..., keras.callbacks.History]


def lstm(optimizer: Any = "adam") -> keras.Model:
    """The model of all three examples."""
    model = keras.Sequential([keras.Input((12, 1)), layers.LSTM(50), layers.Dense(1)])
    model.compile(optimizer, "mse")
    return model


def tenths(epoch: int, rate: float) -> float:
    """C3's schedule: unchanged before epoch 50, then a tenth of what it was, in each epoch."""
    return rate if epoch < 50 else rate * 0.1


@dataclass
class Ended:
    """What a training gave.

    Attributes:
      losses: the validation loss after each epoch that was done.
      weights_sha256: digest of the weights at the end.
    """

    losses: list[float]
    weights_sha256: str


class Lab:
    """The series, the model and the ways to train it."""

    def __init__(self, seed: int) -> None:
        self.series = data.co2() if SERIES.value == "co2" else data.sunspots()
        self.restarts = Restarts(lstm)
        self.seed = seed
        self.epochs = EPOCHS.value or (100 if FULL.value else 20)
        self.patience = PATIENCE.value or (10 if FULL.value else 2)
        self.validation = {"validation_data": (self.series.x_test, self.series.y_test), "verbose": 0}

    def one_call(self, fit: Fit, model: keras.Model, epochs: int, **arguments: Any) -> keras.callbacks.History:
        return fit(model, self.series.x, self.series.y, batch_size=32, epochs=epochs, **self.validation, **arguments)

    def calls(
        self, fit: Fit, model: keras.Model, epochs: int, inputs: Callable[[], Any] | None = None, **arguments: Any
    ) -> list[keras.callbacks.History]:
        """Up to `epochs` calls of one epoch each: fewer if one asks to stop. `inputs` is asked before each of them."""
        histories = []
        for _ in range(epochs):
            x = inputs() if inputs else self.series.x
            histories.append(fit(model, x, self.series.y, batch_size=32, epochs=1, **self.validation, **arguments))
            if model.stop_training or getattr(histories[-1], "stop_reason", None):
                break
        return histories

    def forgetful(self, model: keras.Model) -> list[keras.callbacks.History]:
        """Calls that each start from a fresh optimizer."""
        variables = model.optimizer.variables
        start = [variable.numpy() for variable in variables]

        def forget() -> Any:
            for variable, value in zip(variables, start):
                variable.assign(value)
            return self.series.x

        return self.calls(fitcore.fit, model, self.epochs, inputs=forget)

    def noisy(self, model: keras.Model, noise: float, seed: int) -> list[keras.callbacks.History]:
        """Calls with fresh noise on the inputs."""
        random, x = np.random.default_rng([seed, 1]), self.series.x
        return self.calls(fitcore.fit, model, self.epochs, lambda: x + noise * random.standard_normal(x.shape, np.float32))

    def early_stopping(self) -> keras.callbacks.Callback:
        return keras.callbacks.EarlyStopping(monitor="val_loss", patience=self.patience, restore_best_weights=True)

    def ways(
        self, model: keras.Model, seed: int, strengths: Sequence[float], **records: Any
    ) -> dict[str, Callable[[], list[keras.callbacks.History]]]:
        """All that is done with the model from a seed's start, by name."""
        fit, epochs = fitcore.fit, self.epochs
        hook = fitcore.EarlyStopping(patience=self.patience, restore_best=True)
        return {
            "one call": lambda: [self.one_call(fit, model, epochs, **records)],
            "calls with EarlyStopping": lambda: self.calls(fit, model, epochs, callbacks=[self.early_stopping()]),
            "one call with EarlyStopping": lambda: [self.one_call(fit, model, epochs, callbacks=[self.early_stopping()])],
            "calls with fitcore.EarlyStopping": lambda: self.calls(fit, model, epochs, hooks=[hook]),
            "calls that forget": lambda: self.forgetful(model),
            **{f"noise {s}": lambda s=s: self.noisy(model, s, seed) for s in strengths},  # type: ignore[misc]
        }


def from_each_seed(findings: Findings, lab: Lab, strengths: Sequence[float]) -> dict[str, list[Ended]]:
    """Where each way to train ends, from each seed."""
    ended: dict[str, list[Ended]] = {}
    for seed in findings.each_seed():
        model = lab.restarts.start(seed)
        for name, train in lab.ways(model, seed, strengths, **findings.records("C1", seed)).items():
            lab.restarts.again()
            losses = [loss for history in train() for loss in history.history["val_loss"]]
            ended.setdefault(name, []).append(Ended(losses, launch.weights_sha256(model)))
    return ended


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


# --- the examples ------------------------------------------------------------------------------------------------------------


def c1(findings: Findings, lab: Lab, ended: dict[str, list[Ended]]) -> Effect:
    """One call, from each seed; what Keras and fitcore make of it, and of as many calls. Share of Keras's that are the same."""
    epochs = lab.epochs
    findings.begin(f"C1: {epochs} calls and one call, Keras and fitcore", size=2)
    same_by_keras, same_by_both = [], []
    for seed in findings.seeds()[: 3 if FULL.value else 1]:
        bits, model = [], lab.restarts.start(seed)
        for name, fit in {"Keras": keras.Model.fit, "fitcore": fitcore.fit}.items():
            lab.one_call(fit, model, 1)  # so that no time below is tracing
            for what, train in {"one call": lab.one_call, "calls of one epoch": lab.calls}.items():
                lab.restarts.again()
                seconds, _ = timed(lambda: train(fit, model, epochs))  # noqa: B023
                bits.append(launch.weights_sha256(model))
                findings.took(f"C1, seed {seed}: {epochs} epochs by {name}, {what}", seconds)
        same_by_keras.append(bits[0] == bits[1])
        same_by_both.append(len(set(bits)) == 1)
    found = {
        "validation loss after the first epoch": mean_of([end.losses[0] for end in ended["one call"]]),
        "after the last": mean_of([end.losses[-1] for end in ended["one call"]]),
        f"{epochs} calls of Keras's end in the bits of one": share(same_by_keras),
        "fitcore's, by one call and by many, in Keras's bits": share(same_by_both),
    }
    findings.example("C1", f"LSTM(50), one call of {epochs} epochs", found)
    return share(same_by_keras)


def c2(findings: Findings, lab: Lab, ended: dict[str, list[Ended]]) -> dict[str, Any]:
    """Calls of one epoch that share one EarlyStopping; beside them one call with it, and calls with fitcore's."""
    epochs, first, calls = lab.epochs, ended["one call"], ended["calls with EarlyStopping"]
    findings.begin("C2: six epochs that never improve")
    same = share([mine.weights_sha256 == one.weights_sha256 for mine, one in zip(calls, first)])
    ratio = paired_ratio([end.losses[-1] for end in calls], [end.losses[-1] for end in first])
    one_call, by_hook = ended["one call with EarlyStopping"], ended["calls with fitcore.EarlyStopping"]
    as_one = [  # where it never stopped, nothing has asked it to restore anything yet
        a.weights_sha256 == b.weights_sha256 for a, b in zip(by_hook, one_call) if len(a.losses) < epochs
    ]
    made = {name: [len(end.losses) for end in ends] for name, ends in ended.items()}

    # Nothing is an improvement.
    never: dict[str, Any] = {"callbacks": [keras.callbacks.EarlyStopping(patience=1, min_delta=1e9)]}
    model = lab.restarts.start(lab.seed)
    six = [len(lab.one_call(fit, model, 6, **never).epoch) for fit in (keras.Model.fit, fitcore.fit)]
    six_calls = [len(lab.calls(fit, model, 6, **never)) for fit in (keras.Model.fit, fitcore.fit)]
    found = {
        "epochs of one call with EarlyStopping": mean_of(made["one call with EarlyStopping"]),
        f"calls made of {epochs} with one EarlyStopping": mean_of(made["calls with EarlyStopping"]),
        "calls made with one fitcore.EarlyStopping, whose count outlives the call": mean_of(
            made["calls with fitcore.EarlyStopping"]
        ),
        "it stops the calls where Keras's stops one call": share(
            [len(a.losses) == len(b.losses) for a, b in zip(by_hook, one_call)]
        ),
        "those that it stops end in the bits of one call with Keras's": share(as_one),
        "of six epochs that never improve, patience 1, done in one call (Keras, fitcore)": six,
        "in six calls (Keras, fitcore)": six_calls,
        "the calls end in the bits of one call without the callback, which restores nothing either": same,
    }
    findings.example("C2", f"{epochs} calls of one epoch with one EarlyStopping(val_loss, patience {lab.patience})", found)
    stopped = {name: share([count < epochs for count in counts]) for name, counts in made.items()}
    return {"same": same, "ratio": ratio, "stopped": stopped}


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

    lab.restarts.again()
    in_calls = [h.history["learning_rate"][0] for h in lab.calls(fitcore.fit, model, lab.epochs, callbacks=[schedule])]
    lab.restarts.again()
    for epoch in range(100):
        lab.one_call(fitcore.fit, model, epoch + 1, initial_epoch=epoch, callbacks=[schedule])
    same = all((a == b).all() for a, b in zip(model.get_weights(), ends[-1]))

    steps_per_epoch = -(-len(lab.series.x) // 32)
    keras.utils.set_random_seed(lab.seed)
    network = keras.Sequential([keras.Input((12, 1)), layers.LSTM(50), layers.Dense(1)])
    start = network.get_weights()
    results = []
    for calls in (1, 52):
        network.set_weights(start)
        engine = fitcore.Engine(
            network,
            optimizer=keras.optimizers.Adam(),
            loss=keras.losses.MeanSquaredError(),
            schedule=lambda step: tf.where(step < 50 * steps_per_epoch, 1e-3, 1e-4),  # a tenth once, from epoch 50 on
        )
        for _ in range(calls):
            history = fitcore.fit(
                engine, lab.series.x, lab.series.y, batch_size=32, epochs=52 // calls, verbose=0, record=["step/learning_rate"]
            )
        results.append((launch.weights_sha256(network), history.steps["step/learning_rate"][-1]))
    found = {
        "rate in epochs 49, 50, 51, 60, 80, 99 of one call": [rates[e] for e in (49, 50, 51, 60, 80, 99)],
        "first epoch whose rate is exactly 0": rates.index(0.0) if 0.0 in rates else "none",
        "last epoch that changed any bit of a weight": max((e + 1 for e, does in enumerate(moved) if does), default=0),
        f"rate in the last of {lab.epochs} calls of one epoch, each of which is its epoch 0": in_calls[-1],
        "100 calls that are told their epoch by initial_epoch end in the bits of one call": same,
        "fitcore's schedule as a function of the step, a tenth once: 52 calls end in the bits of one": results[0] == results[1],
        "its rate at the end": results[0][1],
    }
    findings.example("C3", "a schedule of the rate, handed to Adam as a LearningRateScheduler", found, as_written)
    wanted = {epoch: rates[epoch] for epoch in (49, 50, 51, 99)}
    return {"as written": as_written, "rates": rates, "in calls": in_calls, "wanted": wanted}


def overheads(findings: Findings, lab: Lab) -> dict[str, Effect]:
    """How many times as long calls take as one call, warm, in turns."""
    findings.begin("what the calls cost")
    seconds: dict[tuple[str, str], list[float]] = {}
    model = lab.restarts.start(lab.seed)
    ways = [("one call", lab.one_call), ("calls", lab.calls)]
    for name, fit in {"Keras": keras.Model.fit, "fitcore": fitcore.fit}.items():
        lab.one_call(fit, model, 1)
        for _ in range(len(findings.seeds()) * (3 if name == "fitcore" else 1)):
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
    axes[1].plot(third["in calls"], label=f"{len(third['in calls'])} calls of one epoch")
    axes[1].set(yscale="log", xlabel="epoch", ylabel="learning rate (0 drawn at 1e-50)", title="C3's schedule")
    axes[1].legend()


def main(directory: launch.RunDirectory) -> dict[str, Any]:
    lab, strengths = Lab(directory.seed), [float(each) for each in NOISE.value]
    findings = Findings(QUESTION, directory, parts=12)
    findings.used(lab.series.about)
    findings.begin(f"{5 + len(strengths)} trainings of {lab.epochs} epochs from each seed", size=7)
    ended = from_each_seed(findings, lab, strengths)
    same_by_keras = c1(findings, lab, ended)
    second = c2(findings, lab, ended)
    third = c3(findings, lab)
    curves = {name: np.array([end.losses for end in ends]) for name, ends in ended.items() if "Stopping" not in name}
    findings.settle(
        "C-a",
        same_bits_by_fitcore=second["same"],
        same_bits_by_Keras=same_by_keras,
        validation_loss_of_calls_to_one_call=second["ratio"],
        validation_loss_if_each_call_forgets_the_optimizer=paired_ratio(
            curves["calls that forget"][:, -1], curves["one call"][:, -1]
        ),
    )
    findings.settle(
        "C-b",
        one_call_stopped=second["stopped"]["one call with EarlyStopping"],
        calls_stopped_by_the_callback=second["stopped"]["calls with EarlyStopping"],
        calls_stopped_by_a_count_that_lasts=second["stopped"]["calls with fitcore.EarlyStopping"],
    )
    findings.settle("C-c", as_written=third["as written"], rate_in_epoch=third["wanted"])
    times = overheads(findings, lab)
    findings.settle("C-d", calls_to_one_call_by_Keras=times["Keras"], calls_to_one_call_by_fitcore=times["fitcore"])
    findings.settle(
        "C-e",
        validation_loss_at_the_end_by_noise={
            str(s): paired_ratio(curves[f"noise {s}"][:, -1], curves["one call"][:, -1]) for s in strengths
        },
        lowest_validation_loss_by_noise={
            str(s): paired_ratio(curves[f"noise {s}"].min(1), curves["one call"].min(1)) for s in strengths
        },
    )
    findings.plot("C: calls and epochs", lambda axes: draw(axes, curves, third), panels=2)
    return findings.result()


if __name__ == "__main__":
    run(main)
