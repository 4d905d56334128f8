"""Metrics whose results are part of Keras's step, and may change what TensorFlow makes of it."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

import fitcore


@pytest.mark.parametrize("validated", [False, True])
def test_a_result_that_shares_a_constant_with_the_loss(validated: bool) -> None:
    """Both add an epsilon: TensorFlow merges the two, and the terms of the loss's sum come in another order."""
    random = np.random.default_rng(588)
    given: dict[str, Any] = {"x": random.normal(size=(6, 4)).astype("float32"), "y": random.integers(0, 2, size=(6, 1)) * 1.0}
    if validated:
        given["validation_data"] = (given["x"], given["y"])
    left = []
    for by in (keras.Model, fitcore):
        keras.utils.clear_session()
        keras.utils.set_random_seed(1234)
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, activation="sigmoid")])
        metrics = [keras.metrics.F1Score(threshold=0.5), keras.metrics.AUC(num_thresholds=9)]
        model.compile(keras.optimizers.Nadam(0.05), keras.losses.Tversky(), metrics=metrics)
        history = by.fit(model, **given, batch_size=3, epochs=3, verbose=0).history
        left.append(
            [[each.numpy().tolist() for each in model.variables], {k: np.asarray(v).tolist() for k, v in history.items()}]
        )
    assert left[0] == left[1]
