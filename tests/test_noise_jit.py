"""Noise that is measured in a step which XLA compiles, as `compile(jit_compile=True)` asks for: the training's bits stay."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

import fitcore

X = np.random.default_rng(0).normal(size=(22, 6, 6, 3)).astype("float32")
Y = np.random.default_rng(1).normal(size=(22, 3)).astype("float32")


def compiled() -> keras.Model:
    keras.utils.clear_session()
    keras.utils.set_random_seed(3)
    layers = [keras.layers.Conv2D(4, 3), keras.layers.LayerNormalization(), keras.layers.Flatten(), keras.layers.Dense(3)]
    model = keras.Sequential([keras.Input((6, 6, 3)), *layers])
    model.compile("adam", "mse", jit_compile=True)
    return model


def left(model: keras.Model) -> list[Any]:
    return [each.numpy().tobytes() for each in (*model.variables, *model.optimizer.variables)]


@pytest.mark.parametrize("more", [{}, {"hessian_every": 3}], ids=str)
def test_noise_at_some_steps_leaves_the_bits_as_they_are(more: dict[str, Any]) -> None:
    given: dict[str, Any] = {"x": X, "y": Y, "batch_size": 4, "epochs": 2, "verbose": 0}
    wanted = compiled()
    wanted.fit(**given)
    want = left(wanted)
    model = compiled()
    history = fitcore.fit(model, **given, noise=fitcore.GradientNoise(every=2, **more))
    assert left(model) == want
    assert history.noise.step.tolist() == [0, 2, 4, 6, 8, 10]
