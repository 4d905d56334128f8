"""Several calls: fit after fit, evaluate, batch by batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from benchmarks.parity.setup import Setup, case, classification, classifier, functional, mlp, regression, two_heads

QUIET = {"verbose": 0}


def fits(model: keras.Model, *between: Callable[[keras.Model], Any], **arguments: Any) -> Setup:
    """A fit, and one more after each of the functions."""

    def run(by: Any) -> dict[str, Any]:
        reported: dict[str, Any] = {}
        for i, change in enumerate([lambda model: None, *between]):
            change(model)
            history = by.fit(model, **regression() | QUIET | {"epochs": 2} | arguments).history
            reported |= {f"{name} {i}": values for name, values in history.items()}
        return reported

    return model, run


@case
def second_fit() -> Setup:
    """A second fit after the first."""
    return fits(mlp(metrics=["mae"]), lambda model: None)


@case
def second_fit_goes_on() -> Setup:
    """A second fit that goes on at initial_epoch, on a generator of batches."""
    model = mlp()

    def run(by: Any) -> dict[str, Any]:
        first = by.fit(model, **regression(), epochs=2, verbose=0).history
        data = regression()
        batches = ((data["x"][20 * i : 20 * i + 20], data["y"][20 * i : 20 * i + 20]) for i in range(10))
        second = by.fit(model, batches, epochs=4, initial_epoch=2, steps_per_epoch=4, verbose=0).history
        return {"first": first["loss"], "second": second["loss"]}

    return model, run


@case
def recompiled_between_fits() -> Setup:
    """compile between fits, with another optimizer and loss."""
    return fits(mlp(), lambda model: model.compile(keras.optimizers.SGD(0.05), "mae", metrics=["mse"]))


@case
def unfrozen_between_fits() -> Setup:
    """Fine-tuning: a layer is unfrozen and the model compiled again."""
    model = mlp()
    model.layers[0].trainable = False
    model.compile("adam", "mse")

    def unfreeze(model: keras.Model) -> None:
        model.layers[0].trainable = True
        model.compile(keras.optimizers.Adam(1e-4), "mse")

    return fits(model, unfreeze)


@case
def frozen_between_fits_without_compile() -> Setup:
    """`trainable` changed between fits without compile."""
    return fits(mlp(), lambda model: setattr(model.layers[0], "trainable", False))


@case
def rate_set_between_fits() -> Setup:
    """The learning rate set, and weights loaded, between fits."""

    def change(model: keras.Model) -> None:
        model.optimizer.learning_rate = 1e-4
        model.set_weights([0.5 * value for value in model.get_weights()])

    return fits(mlp(), change)


@case
def reseeded_between_fits() -> Setup:
    """Another global seed between fits."""
    return fits(mlp(), lambda model: keras.utils.set_random_seed(7))


@case
def accumulation_over_fits() -> Setup:
    """Gradient accumulation whose rest is carried into the next fit."""
    return fits(mlp(optimizer=keras.optimizers.Adam(0.01, gradient_accumulation_steps=3)), lambda model: None, epochs=1)


@case
def average_over_fits() -> Setup:
    """use_ema: weights overwritten at the end of each fit."""
    return fits(mlp(optimizer=keras.optimizers.SGD(0.05, use_ema=True, ema_momentum=0.9)), lambda model: None)


@case
def loaded_model() -> Setup:
    """A model cloned, with weights and optimizer state handed over, trained on."""
    model = mlp()

    def run(by: Any) -> dict[str, Any]:
        by.fit(model, **regression(), verbose=0)
        clone = keras.models.clone_model(model)
        clone.set_weights(model.get_weights())
        clone.compile("adam", "mse")
        history = by.fit(clone, **regression(), epochs=2, verbose=0).history
        return history | {f"weights {i}": value for i, value in enumerate(clone.get_weights())}

    return model, run


@case
def evaluate_results() -> Setup:
    """evaluate: its result as a list and as a dict, with sample weights, after a fit."""
    model, data = two_heads(metrics={"value": ["mae"], "kind": ["accuracy"]})

    def run(by: Any) -> dict[str, Any]:
        history = by.fit(model, **data, verbose=0).history
        weights = {"value": np.linspace(0, 1, 200), "kind": np.linspace(1, 0, 200)}
        listed = by.evaluate(model, **data, batch_size=24, sample_weight=weights, verbose=0)
        named = by.evaluate(model, **data, steps=3, return_dict=True, verbose=0)
        return history | {"listed": listed} | {f"named {name}": value for name, value in named.items()}

    return model, run


@case
def evaluate_before_fit() -> Setup:
    """evaluate before and after fit, on a model with its own loss only."""
    model = mlp()

    def run(by: Any) -> dict[str, Any]:
        before = by.evaluate(model, **regression(70), verbose=0)
        history = by.fit(model, **regression(), epochs=2, verbose=0).history
        return history | {"before": before, "after": by.evaluate(model, **regression(70), verbose=0)}

    return model, run


def batch(i: int, data: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    return data["x"][20 * i : 20 * i + 20], data["y"][20 * i : 20 * i + 20]


@case
def train_on_batches() -> Setup:
    """train_on_batch: a loop of one's own, weights by sample and class, results as list and dict."""
    model = classifier(metrics=["accuracy"], weighted_metrics=["accuracy"])
    data = classification()

    def run(by: Any) -> dict[str, Any]:
        reported: dict[str, Any] = {}
        for i in range(4):
            reported[f"plain {i}"] = by.train_on_batch(model, *batch(i, data))
        reported["sample"] = by.train_on_batch(model, *batch(4, data), sample_weight=np.linspace(0, 1, 20))
        reported["class"] = by.train_on_batch(model, *batch(5, data), class_weight={0: 1.0, 1: 2.0, 2: 0.5})
        return reported | by.train_on_batch(model, *batch(6, data), return_dict=True)

    return model, run


@case
def test_on_batches() -> Setup:
    """test_on_batch, between calls of train_on_batch."""
    model, data = mlp(metrics=["mae"]), regression()

    def run(by: Any) -> dict[str, Any]:
        reported: dict[str, Any] = {}
        for i in range(4):
            reported[f"train {i}"] = by.train_on_batch(model, *batch(i, data))
            reported[f"test {i}"] = by.test_on_batch(model, *batch(i + 4, data))
        return reported | by.test_on_batch(model, *batch(9, data), return_dict=True)

    return model, run


@case
def fit_among_batches() -> Setup:
    """train_on_batch before and after a fit."""
    model, data = functional(), regression()

    def run(by: Any) -> dict[str, Any]:
        before = by.train_on_batch(model, *batch(0, data))
        history = by.fit(model, **data, verbose=0).history
        return history | {"before": before, "after": by.train_on_batch(model, *batch(1, data))}

    return model, run
