"""A. One pass or many? Successive training against a single training iteration: three examples, five claims.

    python -m experiments.one_pass                    # about a minute
    python -m experiments.one_pass --full             # more seeds, and A2 until it has long overfitted
    python -m experiments.one_pass --repeats=30 --later_epochs=60

A1 fits a line, A2 real handwritten digits with dropout, A3 a line with a loss of one's own that adds an L2 penalty. All three
run as they are written; each is run from several seeds, and each seed's runs differ in one thing only. Measured are what more
epochs change on data not trained on, how much of an update is noise and what is left of it after an epoch, whether the loss
goes up anywhere between where one epoch ends and where training ends, what dropout and L2 change and when, and how many
updates an "iteration" is. Beyond the claims: what Keras's seeded shuffle, the same order in every epoch, costs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import flags
from keras import layers

import fitcore
from experiments.claims import data
from experiments.claims.measures import barrier, noise_shares
from experiments.claims.question import FULL, MNIST, Findings, Question, run
from experiments.claims.restart import Restarts
from experiments.claims.rules_a import CLAIMS
from experiments.claims.statistics import Effect, mean_of, paired, paired_ratio, share, sign_test
from fitcore.command_line import launch

EPOCHS = flags.DEFINE_integer("many_epochs", 10, "A2: epochs that one epoch is compared with.", lower_bound=2)
LATER = flags.DEFINE_integer("later_epochs", None, "A2: epochs after which overfitting shows. Default: 20, --full: 100.", 3)
RATE = flags.DEFINE_float("sgd_rate", 0.1, "SGD's learning rate where the noise of single updates is measured.", 0.0)
ORDERS = flags.DEFINE_integer("orders", 3, "Orders of the data from which the noise in a displacement is measured.", 2)

QUESTION = Question("A", "One pass or many: successive training against a single training iteration", CLAIMS)
NOISE = fitcore.GradientNoise(every=10, per_layer=False, decay=1.0)

Split = data.Split


# --- the examples' models ---------------------------------------------------------------------------------------------------


def line() -> keras.Model:
    """A1."""
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1)])
    model.compile(optimizer="sgd", loss="mse")
    return model


def digits_model(dropout: float = 0.2, optimizer: Callable[[], Any] = keras.optimizers.Adam) -> keras.Model:
    """A2."""
    body = [layers.Flatten(), layers.Dense(128, activation="relu"), layers.Dropout(dropout)]
    model = keras.Sequential([keras.Input((28, 28)), *body, layers.Dense(10, activation="softmax")])
    model.compile(optimizer(), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def line_with_l2(strength: float = 0.01) -> keras.Model:
    """A3: the loss is a Python function that closes over the model."""
    model = keras.Sequential([keras.Input((1,)), layers.Dense(8, activation="relu"), layers.Dense(1)])

    def loss_with_l2(y_true: Any, y_pred: Any) -> Any:
        return tf.reduce_mean(tf.square(y_true - y_pred)) + strength * tf.reduce_sum(tf.square(model.layers[0].kernel))

    model.compile(optimizer="adam", loss=loss_with_l2 if strength else "mse")
    return model


def points(seed: int, n: int = 100) -> tuple[Any, Any]:
    """y = 2x + 1 and noise of standard deviation 0.1; x uniform on [0, 1)."""
    random = np.random.default_rng([seed, n])
    x = random.random((n, 1))
    return x.astype("float32"), (2 * x + 1 + 0.1 * random.normal(size=(n, 1))).astype("float32")


# --- measuring ---------------------------------------------------------------------------------------------------------------


def error(model: keras.Model, x: Any, y: Any) -> float:
    """Mean squared error."""
    return float(np.mean((model(x).numpy() - y) ** 2))


def evaluated(model: keras.Model, x: Any, y: Any) -> Any:
    """[loss, accuracy] of a digits model."""
    return fitcore.evaluate(model, x, y, batch_size=1000, verbose=0)


def loss_of(model: keras.Model, x: Any, y: Any) -> float:
    """Loss of a digits model."""
    return float(evaluated(model, x, y)[0])


def horizons(digits: Split) -> list[int]:
    """Numbers of updates after which a displacement is looked at; the last is an epoch's."""
    epoch = -(-len(digits.x) // 32)
    return [*(n for n in (1, 5, 25) if n < epoch), epoch]


def displacement_noise(model: keras.Model, digits: Split, seed: int) -> list[float]:
    """The share of noise in the displacement after `horizons` updates from the model's weights: its variance over orders of
    the data, over its mean square. The weights are put back."""
    engine, start = fitcore.Engine.of_compiled(model), model.get_weights()
    moved: list[list[Any]] = [[] for _ in horizons(digits)]
    for order in range(ORDERS.value):
        model.set_weights(start)
        shuffle = fitcore.Reshuffle(1000 * seed + order)
        stream = fitcore.Stream(fitcore.make_source(digits.x, digits.y, batch_size=32, shuffle=shuffle))
        stream.begin_epoch()
        done = 0
        for into, horizon in zip(moved, horizons(digits)):
            engine.train(stream, steps=horizon - done, record=["step/loss"])
            done = horizon
            into.append(np.concatenate([np.ravel(now - was) for now, was in zip(model.get_weights(), start)]))
    model.set_weights(start)
    shares = []
    for into in moved:
        each = np.stack(into).astype(np.float64)
        variance = each.var(axis=0, ddof=1).sum()
        shares.append(float(variance / (each**2).sum(axis=1).mean()))
    return shares


# --- the experiment ----------------------------------------------------------------------------------------------------------


def a1(findings: Findings) -> tuple[Effect, Effect, int]:
    """One epoch, then 100 more on the same model; (w, b) compared with (2, 1)."""
    findings.begin("A1: a line, 1 epoch and 100 more")
    restarts = Restarts(line)
    distances, limits, shares, barriers = [], [], [], []
    updates = 0
    for seed in findings.seeds():
        x, y = points(seed)
        model = restarts.start(seed)
        first = fitcore.fit(model, x, y, epochs=1, verbose=0, noise=NOISE)
        updates = first.account["steps"]
        once = model.get_weights()
        more = fitcore.fit(model, x, y, epochs=100, verbose=0, noise=NOISE, **findings.records("A1", seed))
        often = model.get_weights()
        least_squares = np.linalg.lstsq(np.hstack([x, np.ones_like(x)]).astype("float64"), y, rcond=None)[0].ravel()
        distances.append([float(np.hypot(w[0, 0] - 2, b[0] - 1)) for w, b in (once, often)])
        limits.append(float(np.hypot(least_squares[0] - 2, least_squares[1] - 1)))
        shares.append(noise_shares(more.noise))
        barriers.append(barrier(functools.partial(error, model, x, y), model, once, often))
    once_left, often_left = np.transpose(distances)
    left = paired_ratio(often_left, once_left)
    found = {
        "updates in one epoch": updates,
        "distance of (w, b) from (2, 1) after 1 epoch": mean_of(once_left),
        "after 101 epochs": mean_of(often_left),
        "of the least-squares line, which no training on these 100 points can beat": mean_of(limits),
        "factor of what is left of the distance": left,
        "share of noise in an update, in thirds of the 100 epochs": [mean_of(s, "%").mean for s in np.transpose(shares)],
    }
    findings.example("A1", "linear regression, 100 points, SGD", found)
    return left, share([b > 1e-3 for b in barriers]), updates


def shuffle_quirk(findings: Findings, same_order: Any, reshuffled: Any) -> None:
    """What Keras's seeded shuffle costs: the same permutation in every epoch against another one in each. Both [seed, 3]:
    training loss of the last epoch, test loss, test accuracy."""
    gained = paired(reshuffled[:, 2], same_order[:, 2], "%")
    found = {
        "accuracy gained by reshuffling": gained,
        "sign test of that, p": sign_test(gained.values),
        "factor of the test loss by reshuffling": paired_ratio(reshuffled[:, 1], same_order[:, 1]),
        "factor of the last epoch's training loss by reshuffling": paired_ratio(reshuffled[:, 0], same_order[:, 0]),
    }
    findings.beyond(f"Keras's seeded shuffle, one order for all {EPOCHS.value} epochs, against fitcore.Reshuffle", found)


def in_other_orders(restarts: Restarts, digits: Split, seed: int) -> list[list[float]]:
    """[training loss of the last epoch, test loss, test accuracy], each from where the last start was: of many epochs that are
    reshuffled, of one pass over all digits, and of ten passes over a tenth of them, which is as many updates."""
    tenth = len(digits.x) // 10
    ends = []
    for rows, epochs, batch_size in ((len(digits.x), EPOCHS.value, 32), (10 * tenth, 1, 20), (tenth, 10, 20)):
        model, x, y = restarts.again(), digits.x[:rows], digits.y[:rows]
        given: dict[str, Any] = {"epochs": epochs, "batch_size": batch_size, "shuffle": fitcore.Reshuffle(seed), "verbose": 0}
        loss = fitcore.fit(model, x, y, **given).history["loss"][-1]
        ends.append([loss, *evaluated(model, digits.x_test, digits.y_test)])
    return ends


def a2(findings: Findings, digits: Split) -> dict[str, Any]:
    """Digits with dropout: one epoch against many, in other orders too, and without dropout."""
    many, later, seeds = EPOCHS.value, max(EPOCHS.value + 1, LATER.value or (100 if FULL.value else 20)), findings.seeds()
    curves: dict[float, list[dict[str, Any]]] = {0.2: [], 0.0: []}
    shares, barriers, other_orders = [], [], []
    updates, test = 0, (digits.x_test, digits.y_test)
    for dropout, into in curves.items():
        what = f"A2: digits, {'with' if dropout else 'without'} dropout, {later} epochs from {len(seeds)} seeds"
        findings.begin(what + (f"; {many} in other orders" if dropout else ""), size=4 if dropout else 2)
        restarts = Restarts(lambda dropout=dropout: digits_model(dropout))  # type: ignore[misc]
        for seed in findings.each_seed():
            model = restarts.start(seed)
            name = "A2" if dropout else "A2 without dropout"
            given: dict[str, Any] = {
                "validation_data": test,
                "validation_batch_size": 1000,
                "verbose": 0,
                "noise": NOISE if dropout else False,
            }
            first = fitcore.fit(model, digits.x, digits.y, epochs=1, **given)
            updates = first.account["steps"]
            once = model.get_weights()
            rest = fitcore.fit(model, digits.x, digits.y, epochs=later - 1, **given, **findings.records(name, seed))
            into.append({key: first.history[key] + rest.history[key] for key in first.history})
            if dropout:
                shares.append(noise_shares(rest.noise))
                often = model.get_weights()
                barriers.append(barrier(functools.partial(loss_of, model, digits.x, digits.y), model, once, often))
                other_orders.append(in_other_orders(restarts, digits, seed))
    loss, accuracy = (np.array([each[key] for each in curves[0.2]]) for key in ("val_loss", "val_accuracy"))
    loss_without = np.array([each["val_loss"] for each in curves[0.0]])
    reshuffled, one_pass, ten_passes = np.swapaxes(other_orders, 0, 1)
    same_order = np.array([[each[key][many - 1] for key in ("loss", "val_loss", "val_accuracy")] for each in curves[0.2]])
    gain = paired(accuracy[:, many - 1], accuracy[:, 0], "%")
    grows = paired_ratio(loss[:, -1], loss[:, many - 1])
    found = {
        "updates in one epoch": updates,
        "test accuracy after 1 epoch": mean_of(accuracy[:, 0], "%"),
        f"after {many} epochs": mean_of(accuracy[:, many - 1], "%"),
        f"after {later} epochs": mean_of(accuracy[:, -1], "%"),
        f"accuracy gained from 1 to {many} epochs": gain,
        f"factor of the test loss from {many} to {later} epochs": grows,
        "epoch of the lowest mean test loss": int(loss.mean(0).argmin()) + 1,
        "share of noise in an update, in thirds of the training": [mean_of(s, "%").mean for s in np.transpose(shares)],
    }
    findings.example("A2", f"digits with dropout, 1 epoch against {many}", found)
    shuffle_quirk(findings, same_order, reshuffled)
    return {
        "gain": gain,
        "grows": grows,
        "updates": updates,
        "barrier": mean_of(barriers, "%"),
        "barriers": share([b > 1e-3 for b in barriers]),
        "dropout": [paired_ratio(loss[:, e], loss_without[:, e]) for e in (0, later - 1)],
        "loss": {"with dropout": loss, "without": loss_without},
        "one pass": paired(one_pass[:, 2], ten_passes[:, 2], "%"),
    }


def a3(findings: Findings) -> dict[str, Any]:
    """A loss of one's own with L2: 1 epoch against 100, and beside it the same without L2."""
    ends: dict[float, list[list[float]]] = {0.01: [], 0.0: []}
    shares, barriers, updates = [], [], 0
    findings.begin("A3: a loss of one's own with L2, 1 epoch and 99 more")
    for strength, into in ends.items():
        restarts = Restarts(lambda strength=strength: line_with_l2(strength))  # type: ignore[misc]
        for seed in findings.seeds():
            x, y = points(seed)
            test = points(seed, 1000)
            model = restarts.start(seed)
            name = "A3" if strength else "A3 without L2"
            given: dict[str, Any] = {"verbose": 0, "noise": NOISE if strength else False}
            updates = fitcore.fit(model, x, y, epochs=1, **given).account["steps"]
            once, error_once = model.get_weights(), error(model, *test)
            more = fitcore.fit(model, x, y, epochs=99, **given, **findings.records(name, seed))
            often = model.get_weights()
            norms = [float(np.linalg.norm(weights[0])) for weights in (once, often)]
            into.append([error_once, error(model, *test), *norms])
            if strength:
                shares.append(noise_shares(more.noise))
                loss = functools.partial(fitcore.evaluate, model, x, y, batch_size=len(x), verbose=0)
                barriers.append(barrier(loss, model, once, often))
    with_l2, without = (np.transpose(each) for each in ends.values())
    left = paired_ratio(with_l2[1], with_l2[0])
    found = {
        "updates in one epoch": updates,
        "mean squared error on 1,000 other points after 1 epoch": mean_of(with_l2[0]),
        "after 100 epochs": mean_of(with_l2[1]),
        "factor of what is left of the error": left,
        "norm of the penalized kernel after 1 epoch": mean_of(with_l2[2]),
        "norm after 100 epochs": mean_of(with_l2[3]),
        "factor of the error by L2 after 100 epochs": paired_ratio(with_l2[1], without[1]),
        "share of noise in an update, in thirds of the 99 epochs": [mean_of(s, "%").mean for s in np.transpose(shares)],
    }
    findings.example("A3", "a loss of one's own with L2", found)
    return {
        "left": left,
        "updates": updates,
        "barriers": share([b > 1e-3 for b in barriers]),
        "L2": [paired_ratio(with_l2[e], without[e]) for e in range(4)],
    }


def noise_in_displacements(findings: Findings, digits: Split) -> dict[str, Any]:
    """A2's network under plain SGD: noise in a displacement, from fresh weights and from trained ones.

    Measured by the variance over orders of the data, and predicted by the gradient noise along one run: the noise of T updates
    at rate r adds r^2 times the sum of tr(Sigma)/B to the squared displacement, if it is independent from update to update.
    """
    findings.begin("A2 by SGD: how much of a displacement is noise")
    restarts = Restarts(lambda: digits_model(optimizer=lambda: keras.optimizers.SGD(RATE.value)))
    shares: dict[str, list[list[float]]] = {"start": [], "late": []}
    single: dict[str, list[float]] = {"start": [], "late": []}
    predicted: dict[str, list[float]] = {"start": [], "late": []}
    for seed in findings.seeds():
        model, order = restarts.start(seed), fitcore.Reshuffle(seed)
        for when in shares:
            shares[when].append(displacement_noise(model, digits, seed))
            before = model.get_weights()
            given: dict[str, Any] = {"shuffle": order, "verbose": 0}
            noise = fitcore.GradientNoise(every=5, per_layer=False)
            fitted = fitcore.fit(model, digits.x, digits.y, epochs=1, noise=noise, **given)
            moved = sum(float(((now - was) ** 2).sum()) for now, was in zip(model.get_weights(), before))
            spread = float(np.mean(fitted.noise.trace / fitted.noise.batch_size))
            predicted[when].append(RATE.value**2 * fitted.account["steps"] * spread / moved)
            single[when].append(float(np.clip(spread / np.mean(fitted.noise.batch_grad_norm_sq), 0, 1)))
            if when == "start":
                fitcore.fit(model, digits.x, digits.y, initial_epoch=1, epochs=EPOCHS.value, **given)
    found: dict[str, Any] = {}
    for when, name in {"start": "first epoch", "late": f"epoch {EPOCHS.value + 1}"}.items():
        measured = [row[-1] for row in shares[when]]
        found |= {
            f"{name}: share of noise in its single updates, by the gradient noise": mean_of(single[when], "%"),
            f"{name}: in its displacement, predicted for independent updates": mean_of(predicted[when], "%"),
            f"{name}: measured, where no example is drawn twice in an epoch": mean_of(measured, "%"),
        }
    findings.beyond("what the gradient noise says of A-b: noise in single updates and in an epoch's displacement, SGD", found)
    return {"updates": np.array(horizons(digits)), **{when: np.array(rows) for when, rows in shares.items()}}


def draw(axes: Any, second: dict[str, Any], displaced: dict[str, Any]) -> None:
    for name, losses in second["loss"].items():
        epochs = np.arange(1, losses.shape[1] + 1)
        axes[0].fill_between(epochs, losses.min(0), losses.max(0), alpha=0.2, linewidth=0)
        axes[0].plot(epochs, losses.mean(0), label=name)
    axes[0].set(xscale="log", yscale="log", xlabel="epochs", ylabel="test loss (mean, range over seeds)", title="A2")
    axes[0].legend()
    for name, shares in {"from fresh weights": displaced["start"], "after training": displaced["late"]}.items():
        axes[1].fill_between(displaced["updates"], shares.min(0), shares.max(0), alpha=0.2, linewidth=0)
        axes[1].plot(displaced["updates"], shares.mean(0), "o-", label=name)
    axes[1].set(xscale="log", ylim=(0, 1), xlabel="updates", ylabel="share of noise in the displacement", title="A2 by SGD")
    axes[1].legend()


def main(run: launch.RunDirectory) -> dict[str, Any]:
    digits = data.digits(MNIST.value)
    findings = Findings(QUESTION, run, parts=9)
    findings.used(digits.about)
    findings.used("A1, A3: 100 points made for each seed, x uniform on [0, 1), y = 2x + 1 + 0.1 N(0, 1); 1,000 more to test on")
    left_a1, barriers_a1, updates_a1 = a1(findings)
    second = a2(findings, digits)
    third = a3(findings)
    findings.settle(
        "A-a",
        accuracy_gained_A2=second["gain"],
        distance_left_A1=left_a1,
        error_left_A3=third["left"],
        test_loss_later_A2=second["grows"],
        one_pass_over_ten_times_the_digits_A2=second["one pass"],
    )
    displaced = noise_in_displacements(findings, digits)
    start, late = displaced["start"], displaced["late"]
    findings.settle(
        "A-b",
        fallen_by_at_the_start=paired(start[:, -1], start[:, 0], "%"),
        fallen_by_after_training=paired(late[:, -1], late[:, 0], "%"),
        noise_in_one_update_at_the_start=mean_of(start[:, 0], "%"),
        noise_in_one_update_after_training=mean_of(late[:, 0], "%"),
        noise_in_an_epoch_at_the_start=mean_of(start[:, -1], "%"),
        noise_in_an_epoch_after_training=mean_of(late[:, -1], "%"),
    )
    findings.settle(
        "A-c",
        runs_with_a_barrier_A1=barriers_a1,
        runs_with_a_barrier_A2=second["barriers"],
        runs_with_a_barrier_A3=third["barriers"],
        barrier_A2=second["barrier"],
    )
    findings.settle(
        "A-d",
        test_loss_by_dropout_after_one_epoch=second["dropout"][0],
        test_loss_by_dropout_later=second["dropout"][1],
        test_error_by_L2_after_one_epoch=third["L2"][0],
        test_error_by_L2_later=third["L2"][1],
        kernel_norm_by_L2_after_one_epoch=third["L2"][2],
        kernel_norm_by_L2_later=third["L2"][3],
    )
    counted = {"A1": updates_a1, "A2": second["updates"], "A3": third["updates"]}
    findings.settle("A-e", updates_in_one_epoch=counted)
    findings.plot("A: one pass or many", lambda axes: draw(axes, second, displaced), panels=2)
    return findings.result()


if __name__ == "__main__":
    run(main)
