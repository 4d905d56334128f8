"""Layers."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
from keras.src.backend import AutocastScope

BATCH_MOMENTS = "_moments"  # of BatchNormalization: (inputs, mask) -> (mean, variance). Why: not public (Keras >= 3.0).


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
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute of one layer, for a while. Why: past Keras's `__setattr__`, which would track it (Keras >= 3.0)."""
    attributes = vars(owner)
    had, before = name in attributes, attributes.get(name)
    attributes[name] = value
    try:
        yield
    finally:
        if had:
            attributes[name] = before
        else:
            del attributes[name]


@contextlib.contextmanager
def computed_by(model: Any, methods: Sequence[tuple[type, str, Callable[..., Any]]]) -> Iterator[None]:
    """Within it the model's layers compute some of their methods otherwise.

    Args:
      methods: (class, name of its method, own): own(layer, method, *arguments) is called instead, for layers of the class and
        of those derived from it that haven't overridden the method.
    """
    with contextlib.ExitStack() as changed:
        for layer in all_layers(model):
            for base, name, own in methods:
                if isinstance(layer, base) and getattr(type(layer), name) is getattr(base, name):
                    changed.enter_context(replaced(layer, name, functools.partial(own, layer, getattr(layer, name))))
        yield


def is_noted(method: Callable[..., Any]) -> bool:
    """Whether somebody notes the calls of a layer's method (noise/watch.py)."""
    return hasattr(method, "method")


def called_as(method: Callable[..., Any], own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """`own` called in place of a layer's method, by way of who notes the method's calls, if somebody does."""
    if not is_noted(method):
        return own(*args, **kwargs)
    with replaced(method, "method", own):
        return method(*args, **kwargs)


@contextlib.contextmanager
def calls_noted(note: Callable[[Any, Any], None]) -> Iterator[None]:
    """Within it `note(layer, output)` is told what each call of a layer gave, those within a layer's call first.

    Why: all layers are called through this one method; what a layer's `call` gives may have been replaced (Keras >= 3.0).
    """
    called = keras.layers.Layer.__call__

    @functools.wraps(called)
    def noted(layer: Any, *args: Any, **kwargs: Any) -> Any:
        output = called(layer, *args, **kwargs)
        note(layer, output)
        return output

    keras.layers.Layer.__call__ = noted
    try:
        yield
    finally:
        keras.layers.Layer.__call__ = called
