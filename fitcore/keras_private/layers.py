"""Layers."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras.src.backend import AutocastScope


def all_layers(model: Any) -> list[Any]:
    """The model and every layer in it, however deep, each once; empty if it is no Keras layer.

    Why: `model.layers` stops at the first level, and not every layer that holds others has `layers` (Keras >= 3.0).
    """
    if not isinstance(model, keras.layers.Layer):
        return []
    return list({id(layer): layer for layer in model._flatten_layers()}.values())


def own_weights(layer: Any) -> set[int]:
    """Ids of the trainable weights a layer has itself, those of layers in it aside. Why: not public (Keras >= 3.0)."""
    return {id(variable) for variable in layer._trainable_variables}


def added_losses(layer: Any) -> int:
    """How many losses `add_loss` has given this layer. Why: `layer.losses` has regularizers in it too (Keras >= 3.0)."""
    return len(layer._losses)


def autocast_scope(dtype: str | None) -> Any:
    """The scope in which Keras calls a layer's `call` under mixed precision: variables read as `dtype`.

    Why: calling `call` by itself would leave it out (Keras >= 3.0).
    """
    return AutocastScope(dtype)


@contextlib.contextmanager
def weights_read_once(model: Any) -> Iterator[None]:
    """Within it, in a graph, each weight of a recurrent layer is read once, not at each time step.

    Read in the loop over time, a weight is one more thing that the backward pass keeps for each time step: XLA copies it so
    often. The values are the same.

    Why: a variable gives `_cached_value`, if there is one, wherever it is used as a tensor (TensorFlow >= 2.0); nothing public
    tells a layer which tensor to take for its weight but keras.StatelessScope, which would hold back what layers assign.
    `inner_loop` is the part of a recurrent layer's call that holds the loop (Keras >= 3.0).
    """
    layers = [layer for layer in all_layers(model) if isinstance(layer, keras.layers.RNN)]
    before = [vars(layer).get("inner_loop") for layer in layers]
    for layer in layers:  # past Keras's __setattr__, which would track it
        vars(layer)["inner_loop"] = functools.partial(_reading_once, layer, layer.inner_loop)
    try:
        yield
    finally:
        for layer, function in zip(layers, before):
            if function is None:
                del vars(layer)["inner_loop"]
            else:
                vars(layer)["inner_loop"] = function


def _reading_once(layer: Any, inner_loop: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    weights = [weight.value for weight in layer.trainable_weights]  # which a call doesn't change
    weights = [weight for weight in weights if hasattr(weight, "_cached_value")]
    try:
        for weight in weights:
            weight._cached_value = weight.read_value()
        return inner_loop(*args, **kwargs)
    finally:
        for weight in weights:
            weight._cached_value = None
