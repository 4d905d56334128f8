"""B. How parameters converge: plain SGD, Adam with a decaying rate, callbacks that watch. Three examples, four claims.

    python -m experiments.convergence                 # about a minute
    python -m experiments.convergence --full          # more seeds, a finer sweep of rates
    python -m experiments.convergence --epochs_B1=20

B1 trains a small network on real handwritten digits by SGD. B2 hands Adam a Python function of the epoch as its rate, B3 gives
ModelCheckpoint a path without an ending: as written both fail on Keras 3. The failure is shown, then what works in Keras and
what fitcore offers, and that these do the same. The claims are settled by sweeps over the rate of SGD and of Adam, by noise
added through smaller batches, and by a decaying rate against the constant one it begins with.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import flags
from keras import layers

import fitcore
from experiments.claims import data
from experiments.claims.measures import noise_shares
from experiments.claims.question import FULL, MNIST, Findings, Question, raised, run
from experiments.claims.restart import Restarts
from experiments.claims.rules_b import CLAIMS
from experiments.claims.statistics import mean_of, paired, paired_ratio, share
from fitcore.command_line import launch

EPOCHS = flags.DEFINE_integer("epochs_B1", 10, "Epochs of B1 and B2.", lower_bound=4)
SWEEP_EPOCHS = flags.DEFINE_integer("sweep_epochs", None, "Epochs of the sweeps over rates. Default: 5, --full: 10.", 4)
EPOCHS_B3 = flags.DEFINE_integer("epochs_B3", 20, "Most epochs of B3.", lower_bound=2)
PATIENCE = flags.DEFINE_integer("patience_B3", 5, "Epochs without improvement after which B3 stops.", lower_bound=1)
SMALL_BATCH = flags.DEFINE_integer("noisy_batch", 4, "Batch that stands for noise, beside 32.", lower_bound=1)

QUESTION = Question("B", "How parameters converge", CLAIMS)
SGD_RATES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # --full adds one between each two
ADAM_RATES = (1e-3, 1e-2, 1e-1)
NOISE = fitcore.GradientNoise(every=5, per_layer=False, decay=1.0)

Split = data.Split


# --- the examples ------------------------------------------------------------------------------------------------------------


def digits_model(optimizer: Any) -> keras.Model:
    """The model of all three: 784 -> 10 (relu) -> 10 (softmax)."""
    body = [layers.Dense(10, activation="relu"), layers.Dense(10, activation="softmax")]
    model = keras.Sequential([keras.Input((784,)), *body])
    model.compile(optimizer=optimizer, loss="categorical_crossentropy", metrics=["accuracy"])
    return model


def one_hot(digits: Split) -> Split:
    """Images [n, 784] and labels [n, 10], float32."""
    y, y_test = (keras.utils.to_categorical(labels, 10).astype("float32") for labels in (digits.y, digits.y_test))
    return Split(digits.x.reshape(-1, 784), y, digits.x_test.reshape(-1, 784), y_test, digits.about)


def rate_of_epoch(epoch: int) -> float:
    """B2's rate."""
    return float(0.001 * np.exp(-epoch / 10))


def b2_as_written(digits: Split) -> None:
    model = digits_model(keras.optimizers.Adam(rate_of_epoch))  # Keras 3 calls it without an argument
    model.fit(digits.x, digits.y, epochs=10, validation_data=(digits.x_test, digits.y_test), verbose=0)


def b3_as_written(digits: Split) -> None:
    model = digits_model("adam")
    watchers = [
        keras.callbacks.ModelCheckpoint("model_weights", monitor="val_loss", save_best_only=True),
        keras.callbacks.EarlyStopping(monitor="val_loss", patience=5),
    ]
    model.fit(digits.x, digits.y, epochs=20, validation_data=(digits.x_test, digits.y_test), callbacks=watchers, verbose=0)


def rate_of_step(rates: Sequence[float], steps_per_epoch: int) -> Callable[[tf.Tensor], tf.Tensor]:
    """Rates by epoch as fitcore takes them: a function of the step that is compiled into the loop, here of its epoch."""
    table = tf.constant(rates, tf.float32)
    return lambda step: tf.gather(table, tf.minimum(step // steps_per_epoch, len(rates) - 1))


class SaveBest(fitcore.Hook):
    """Saves the weights whenever val_loss is lower than ever: a ModelCheckpoint(save_best_only=True) of one's own."""

    def __init__(self, path: Any) -> None:
        self.path, self.best = path, math.inf

    def after_epoch(self, view: fitcore.View) -> Any:
        if view.logs["val_loss"] >= self.best:
            return None
        self.best = view.logs["val_loss"]
        return fitcore.Save(self.path)


def examples_in_batch(seen: fitcore.Observation) -> tf.Tensor:
    """A recorder: how many examples the step's batch has."""
    return tf.shape(seen.x)[0]


# --- measuring ---------------------------------------------------------------------------------------------------------------


def training_loss(model: keras.Model, digits: Split) -> float:
    """Over all training digits, after training."""
    return float(fitcore.evaluate(model, digits.x, digits.y, batch_size=1000, verbose=0)[0])


def is_wild(losses: Sequence[float]) -> bool:
    """Whether a run oscillates or diverges, by its loss after each epoch: see B-a's rule."""
    rises = np.mean(np.diff(losses) > 0)
    return bool(not np.isfinite(losses).all() or losses[-1] > math.log(10) or rises >= 1 / 3)


def sweep_epochs() -> int:
    """Epochs of the sweeps over rates."""
    return int(SWEEP_EPOCHS.value or (10 if FULL.value else 5))


class Sweep:
    """Training runs over rates and seeds: epoch losses [rate, seed, epoch] and losses over all training digits at the end."""

    def __init__(self, restarts: Restarts, digits: Split, rates: Sequence[float], seeds: Sequence[int]) -> None:
        self.restarts, self.digits, self.rates, self.seeds = restarts, digits, rates, seeds
        runs = self.train(rates)
        self.curves = np.array([[curve for curve, _ in row] for row in runs])
        self.ends = np.array([[end for _, end in row] for row in runs])

    def train(self, rates: Sequence[float], batch_size: int = 32) -> list[list[tuple[list[float], float]]]:
        """As many updates as batches of 32 make, whatever the batch size; (epoch losses, loss at the end) [rate][seed]."""
        steps = None if batch_size == 32 else -(-len(self.digits.x) // 32)
        runs: list[list[tuple[list[float], float]]] = [[] for _ in rates]
        for seed in self.seeds:
            self.restarts.start(seed)
            source: dict[str, Any] = {
                "batch_size": batch_size,
                "shuffle": fitcore.Reshuffle(seed),
                "steps_per_epoch": steps,
                "verbose": 0,
            }
            for into, rate in zip(runs, rates):
                model = self.restarts.again()
                model.optimizer.learning_rate = rate
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of losses that aren't finite: they are what is counted here
                    history = fitcore.fit(model, self.digits.x, self.digits.y, epochs=sweep_epochs(), **source).history
                into.append((history["loss"], training_loss(model, self.digits)))
        return runs

    @property
    def best(self) -> int:
        """Which rate leaves the lowest mean loss."""
        means = self.ends.mean(axis=1)
        return int(np.argmin(np.where(np.isfinite(means), means, np.inf)))


# --- the experiment ----------------------------------------------------------------------------------------------------------


def b1(findings: Findings, digits: Split) -> dict[str, Any]:
    """SGD as written, ten epochs."""
    findings.begin("B1: plain SGD")
    restarts, ends, shares, examples = Restarts(lambda: digits_model(keras.optimizers.SGD(0.01))), [], [], set()
    record = {"step/loss": fitcore.RECORDERS["step/loss"], "step/examples": examples_in_batch}
    steps = 0
    for seed in findings.seeds():
        model = restarts.start(seed)
        test = {"validation_data": (digits.x_test, digits.y_test), "validation_batch_size": 1000}
        given = {"epochs": EPOCHS.value, "verbose": 0, "record": record, "noise": NOISE, **test}
        fitted = fitcore.fit(model, digits.x, digits.y, **given, **findings.records("B1", seed))
        ends.append([fitted.history["val_accuracy"][-1], training_loss(model, digits)])
        shares.append(noise_shares(fitted.noise))
        examples |= set(fitted.steps["step/examples"].astype(int).tolist())
        steps = fitted.account["steps"] // EPOCHS.value
    accuracy, loss = np.transpose(ends)
    found = {
        "updates in one epoch": steps,
        f"test accuracy after {EPOCHS.value} epochs": mean_of(accuracy, "%"),
        "training loss": mean_of(loss, "nats"),
        "share of noise in an update, in thirds of the training": [mean_of(s, "%").mean for s in np.transpose(shares)],
    }
    findings.example("B1", "plain SGD, rate 0.01, 10 epochs", found)
    return {"examples": {"fewest": min(examples), "most": max(examples)}, "shares": shares}


def b2(findings: Findings, digits: Split) -> dict[str, Any]:
    """Adam with an exponentially decaying rate: the failure, three ways that work, and against a constant rate."""
    findings.begin("B2: Adam with a decaying rate")
    error = raised(lambda: b2_as_written(digits))
    epochs, seeds = EPOCHS.value, findings.seeds()
    later = 2 * epochs
    steps = -(-len(digits.x) // 32)
    restarts = Restarts(lambda: digits_model(keras.optimizers.Adam(0.001)))
    scheduler = keras.callbacks.LearningRateScheduler(rate_of_epoch)
    losses, shares = [], []
    for seed in seeds:
        restarts.start(seed)
        for callbacks in ([], [scheduler]):
            model = restarts.again()
            given: dict[str, Any] = {"verbose": 0, "shuffle": fitcore.Reshuffle(seed)}
            first = given | (findings.records("B2", seed) | {"noise": NOISE} if callbacks else {})
            first["callbacks"] = [*first.get("callbacks", []), *callbacks]
            fitted = fitcore.fit(model, digits.x, digits.y, epochs=epochs, **first)
            losses.append(training_loss(model, digits))
            if callbacks:
                shares.append(noise_shares(fitted.noise))
            fitcore.fit(model, digits.x, digits.y, initial_epoch=epochs, epochs=later, callbacks=callbacks, **given)
            losses.append(training_loss(model, digits))

    def train(way: str) -> tuple[str, list[float]]:
        """[digest of the weights, the rate at each step] by one way of saying the same."""
        keras.utils.set_random_seed(findings.run.seed)
        model = digits_model(keras.optimizers.Adam(0.001))
        given: dict[str, Any] = {"epochs": 3, "verbose": 0}
        if way == "Keras":
            model.fit(digits.x, digits.y, callbacks=[scheduler], **given)
            return launch.weights_sha256(model), []
        record = ["step/learning_rate"]
        if way == "fitcore with the callback":
            fitted = fitcore.fit(model, digits.x, digits.y, callbacks=[scheduler], record=record, **given)
        else:
            loss = keras.losses.CategoricalCrossentropy()
            schedule = rate_of_step([rate_of_epoch(epoch) for epoch in range(3)], steps)
            engine = fitcore.Engine(model, optimizer=model.optimizer, loss=loss, schedule=schedule)
            fitted = fitcore.fit(engine, digits.x, digits.y, record=record, **given)
        return launch.weights_sha256(model), fitted.steps["step/learning_rate"][::steps].tolist()

    by_keras, by_callback, by_schedule = (
        train(way) for way in ("Keras", "fitcore with the callback", "fitcore with a schedule in the loop")
    )
    constant, constant_later, decayed, decayed_later = np.reshape(losses, (len(seeds), 4)).T
    as_written, much_later = paired_ratio(decayed, constant), paired_ratio(decayed_later, constant_later)
    found = {
        "rates of the first epochs, by the schedule in fitcore's loop": by_schedule[1],
        "LearningRateScheduler ends in the same bits under Keras and fitcore": by_keras[0] == by_callback[0],
        "fitcore's schedule, compiled into the loop, ends in the callback's bits": by_schedule[0] == by_callback[0],
        f"training loss after {epochs} epochs, decaying": mean_of(decayed, "nats"),
        "constant": mean_of(constant, "nats"),
        f"factor by decaying, {epochs} epochs": as_written,
        f"factor by decaying, {later} epochs": much_later,
        "share of noise in an update, in thirds of the training": [mean_of(s, "%").mean for s in np.transpose(shares)],
    }
    findings.example("B2", "Adam with rate 0.001 exp(-epoch/10)", found, error)
    return {"as written": as_written, "later": much_later, "shares": shares}


def b3(findings: Findings, digits: Split) -> dict[str, Any]:
    """Callbacks that watch convergence: the failure, the correct form, and hooks that do the same."""
    findings.begin("B3: callbacks that watch")
    error = raised(lambda: b3_as_written(digits))
    restarts, stops, losses, shares = Restarts(lambda: digits_model("adam")), [], [], []
    same: list[bool] = []
    for seed in findings.seeds():
        restarts.start(seed)
        ends = []
        for own in (False, True)[: 2 if len(same) < 3 else 1]:  # three seeds show that they are the same
            model = restarts.again()
            test = {"validation_data": (digits.x_test, digits.y_test), "validation_batch_size": 1000}
            given: dict[str, Any] = {"epochs": EPOCHS_B3.value, "verbose": 0, **test}
            path = findings.run.path / ("best.weights.h5" if own else "model_weights.keras")
            if own:
                stop = fitcore.StopOn(fitcore.Patience(PATIENCE.value), "val_loss")
                fitted = fitcore.fit(model, digits.x, digits.y, hooks=[stop, SaveBest(path)], **given)
                model.load_weights(path)
            else:
                given |= {"noise": NOISE, **findings.records("B3", seed)}
                given["callbacks"] = [
                    *given.get("callbacks", []),
                    keras.callbacks.ModelCheckpoint(path, monitor="val_loss", save_best_only=True),
                    keras.callbacks.EarlyStopping(monitor="val_loss", patience=PATIENCE.value),
                ]
                fitted = fitcore.fit(model, digits.x, digits.y, **given)
                shares.append(noise_shares(fitted.noise))
                loss = fitted.history["val_loss"]
                stops.append([len(loss), int(np.argmin(loss)) + 1])
                losses.append([loss[-1], min(loss)])
                model = keras.models.load_model(path)
            ends.append((len(fitted.history["loss"]), launch.weights_sha256(model)))
        same.append(ends[0] == ends[-1])
    (ran, best), (last, least) = np.transpose(stops), np.transpose(losses)
    found = {
        "epochs run": mean_of(ran),
        "runs stopped before the last epoch": share([n < EPOCHS_B3.value for n in ran]),
        "epoch of the lowest val_loss": mean_of(best),
        "val_loss of the last weights, as a factor of the saved ones'": paired_ratio(last, least),
        "fitcore's StopOn(Patience) and a hook that saves stop at the same epoch with the same saved bits": all(same),
        "share of noise in an update, in thirds of the training": [mean_of(s, "%").mean for s in np.transpose(shares)],
    }
    findings.example("B3", "ModelCheckpoint and EarlyStopping", found, error)
    return {"shares": shares}


def line_distances(seeds: Sequence[int]) -> tuple[list[float], list[float]]:
    """Distance to the least-squares line after SGD with a constant rate, and with one that decays from it."""
    epochs, batch, rate = 40, 4, 0.5
    distances: tuple[list[float], list[float]] = ([], [])
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1)])
    for into, decay in zip(distances, (math.inf, 10.0)):
        schedule = rate_of_step([rate * math.exp(-epoch / decay) for epoch in range(epochs)], 100 // batch)
        optimizer = keras.optimizers.SGD(rate)
        engine = fitcore.Engine(model, optimizer=optimizer, loss=keras.losses.MeanSquaredError(), schedule=schedule)
        for seed in seeds:
            random = np.random.default_rng(seed)
            x = random.random((100, 1))
            y = 2 * x + 1 + 0.1 * random.normal(size=(100, 1))
            model.set_weights([random.normal(size=(1, 1)), np.zeros(1)])
            optimizer.iterations.assign(0)
            given: dict[str, Any] = {
                "epochs": epochs,
                "batch_size": batch,
                "shuffle": fitcore.Reshuffle(seed),
                "verbose": 0,
                "record": (),
            }
            fitcore.fit(engine, x.astype("float32"), y.astype("float32"), **given)
            exact = np.linalg.lstsq(np.hstack([x, np.ones_like(x)]), y, rcond=None)[0].ravel()
            into.append(float(np.linalg.norm(np.concatenate([np.ravel(w) for w in model.get_weights()]) - exact)))
    return distances


def draw(axes: Any, sgd: Sweep, adam: Sweep, shares: dict[str, Any]) -> None:
    for name, sweep in {"SGD": sgd, "Adam": adam}.items():
        ends = np.where(np.isfinite(sweep.ends), sweep.ends, np.nan)
        axes[0].fill_between(sweep.rates, np.nanmin(ends, 1), np.nanmax(ends, 1), alpha=0.2, linewidth=0)
        axes[0].plot(sweep.rates, np.nanmean(ends, 1), "o-", label=name)
    axes[0].axhline(math.log(10), color="k", linestyle=":", linewidth=0.8, label="guessing")
    axes[0].set(xscale="log", yscale="log", xlabel="learning rate", ylabel="training loss (mean, range over seeds)")
    axes[0].set(title=f"after {sweep_epochs()} epochs")
    axes[0].legend()
    for rate, curves in zip(sgd.rates, sgd.curves):
        axes[1].plot(np.arange(1, curves.shape[1] + 1), curves.mean(0), label=f"{rate:g}")
    axes[1].set(yscale="log", xlabel="epoch", ylabel="loss (mean over seeds)", title="SGD by rate")
    axes[1].legend(fontsize="small")
    for name, each in shares.items():
        axes[2].plot([1, 2, 3], np.mean(each, axis=0), "o-", label=name)
    axes[2].set(ylim=(0, 1.02), xlabel="third of the training", ylabel="share of noise in an update", xticks=[1, 2, 3])
    axes[2].legend()


def main(run: launch.RunDirectory) -> dict[str, Any]:
    digits = one_hot(data.digits(MNIST.value))
    findings = Findings(QUESTION, run, parts=7)
    findings.used(digits.about)
    findings.used("B-c also: 100 points made for each seed, x uniform on [0, 1), y = 2x + 1 + 0.1 N(0, 1)")
    first, second, third = b1(findings, digits), b2(findings, digits), b3(findings, digits)
    seeds = findings.seeds()

    def rates(few: Sequence[float]) -> list[float]:
        between = [math.sqrt(a * b) for a, b in itertools.pairwise(few)] if FULL.value else []
        return sorted([*few, *between])

    findings.begin("SGD, a sweep over rates")
    sgd = Sweep(Restarts(lambda: digits_model(keras.optimizers.SGD(0.01))), digits, rates(SGD_RATES), seeds)
    findings.begin("Adam, a sweep over rates")
    adam = Sweep(Restarts(lambda: digits_model(keras.optimizers.Adam(0.001))), digits, rates(ADAM_RATES), seeds)
    best = sgd.ends[sgd.best]
    finite = np.where(np.isfinite(sgd.ends), sgd.ends, 1e6)
    findings.settle(
        "B-a",
        loss_by_the_smallest_rate=paired_ratio(sgd.ends[0], best),
        runs_that_oscillate_or_diverge_at_the_largest_rate=share([is_wild(curve) for curve in sgd.curves[-1]]),
        runs_that_oscillate_or_diverge_at_the_best_rate=share([is_wild(curve) for curve in sgd.curves[sgd.best]]),
        loss_by_the_largest_rate=paired_ratio(finite[-1], best),
        loss_at_the_end_of_the_largest_rate=mean_of(finite[-1], "nats"),
    )
    findings.begin(f"noise by batches of {SMALL_BATCH.value}")
    noisy = [[end for _, end in each.train([each.rates[each.best]], SMALL_BATCH.value)[0]] for each in (sgd, adam)]
    costs = [np.array(losses) / each.ends[each.best] for losses, each in zip(noisy, (sgd, adam))]
    written = sgd.ends[list(sgd.rates).index(0.01)], adam.ends[list(adam.rates).index(0.001)]
    findings.settle(
        "B-b",
        loss_of_Adam_as_written=paired_ratio(written[1], written[0]),
        loss_of_Adam_tuned=paired_ratio(adam.ends[adam.best], sgd.ends[sgd.best]),
        loss_of_Adam_in_noise=paired_ratio(noisy[1], noisy[0]),
        loss_by_noise_Adam_over_SGD=paired_ratio(costs[1], costs[0]),
        loss_by_noise_SGD=paired_ratio(noisy[0], sgd.ends[sgd.best]),
        loss_by_noise_Adam=paired_ratio(noisy[1], adam.ends[adam.best]),
    )
    findings.begin("decay to a known minimum")
    constant, decayed = line_distances(seeds)
    findings.settle(
        "B-c",
        distance_left_of_the_line=paired_ratio(decayed, constant),
        loss_of_digits_as_written=second["as written"],
        loss_of_digits_later=second["later"],
    )
    findings.settle("B-d", examples_in_an_update=first["examples"])
    shares = {"B1: SGD": first["shares"], "B2: Adam, decaying": second["shares"], "B3: Adam": third["shares"]}
    last = {name: mean_of([each[-1] for each in found], "%") for name, found in shares.items()}
    more = {
        "best rate of SGD in the sweep": sgd.rates[sgd.best],
        "best rate of Adam": adam.rates[adam.best],
        **{f"share of noise in an update, last third, {name}": effect for name, effect in last.items()},
        "Adam's (B3) less SGD's (B1)": paired([s[-1] for s in third["shares"]], [s[-1] for s in first["shares"]], "%"),
    }
    findings.beyond("what noise the updates are made of, and the best rates", more)
    findings.plot("B: how parameters converge", lambda axes: draw(axes, sgd, adam, shares), panels=3)
    return findings.result()


if __name__ == "__main__":
    run(main)
