"""What is recorded of a model all of whose weights are frozen."""

from __future__ import annotations

import keras
import numpy as np

import fitcore


def test_the_gradient_of_no_weights_has_the_norm_zero() -> None:
    """Keras trains such a model, if only its seeds and means go on."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.layers[0].trainable = False
    history = fitcore.fit(
        model, x=np.ones((8, 3)), y=np.ones((8, 1)), batch_size=4, verbose=0, record=["step/loss", "step/gradient_norm"]
    )
    assert history.steps["step/gradient_norm"].tolist() == [0.0, 0.0]
