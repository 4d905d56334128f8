"""Keras's random numbers, drawn before the step that uses them."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from keras.src.backend.tensorflow import random as backend_random
from keras.src.random.seed_generator import SeedGenerator, global_seed_generator

_FROM_A_SHAPE = ("normal", "uniform", "truncated_normal", "randint")
_FROM_TENSORS = ("categorical", "gamma", "binomial", "beta", "shuffle")  # what they draw may depend on what a step computes


class NotDrawableError(Exception):
    """What a step draws can't be drawn before the step."""


@dataclass(frozen=True)
class Draw:
    """One draw of a step.

    Attributes:
      make: () -> what is drawn next, traced: of dropout, which elements stay, else the numbers. Moves the generator on.
      spec: its shape and dtype.
      state: the generator's; None for a fixed seed.
    """

    make: Callable[[], tf.Tensor]
    spec: tf.TensorSpec
    state: tf.Variable | None


@contextlib.contextmanager
def draws_noted(draws: list[Draw]) -> Iterator[None]:
    """Append to `draws` what Keras's layers draw while a step is traced inside, in the order of their drawing.

    Raises (inside):
      NotDrawableError: it depends on what the step computes, or is drawn in a loop or branch within the step.
    """
    graph = tf.compat.v1.get_default_graph()
    refused: list[str] = []

    def refuse(why: str) -> NotDrawableError:
        refused.append(why)
        return NotDrawableError(why)

    def note(name: str, function: Callable[..., tf.Tensor], given: dict[str, Any]) -> tf.Tensor:
        if name == "dropout" and given["rate"] in (0.0, 1.0):
            return function(**given)  # draws nothing
        if tf.compat.v1.get_default_graph() is not graph:
            raise refuse(f"keras.random.{name} is called in a loop or a branch within the step")
        seed = given.get("seed")
        generator = global_seed_generator() if seed is None else seed
        if name == "dropout":
            shape = _mask_shape(given)
            if shape is None:
                raise refuse("the shape of a dropout's mask depends on what the step computes")
            make = functools.partial(_mask, function, given, shape)
        elif name in _FROM_TENSORS or any(tf.is_tensor(each) for each in tf.nest.flatten(given)):
            raise refuse(f"what keras.random.{name} draws depends on what the step computes")
        else:
            make = functools.partial(function, **given)
        drawn = make()
        state = generator.state.value if isinstance(generator, SeedGenerator) else None
        draws.append(Draw(make, tf.TensorSpec(drawn.shape, drawn.dtype), state))
        return _applied(given, drawn) if name == "dropout" else drawn

    with _replaced(note):
        try:
            yield
        except NotDrawableError as error:  # Keras has put the layer's arguments around its message
            raise NotDrawableError(refused[0]) from error


@contextlib.contextmanager
def draws_given(drawn: Sequence[tf.Tensor]) -> Iterator[None]:
    """While the same step is traced inside, its draws are these, in the same order: nothing is drawn."""
    left = iter(drawn)

    def give(name: str, function: Callable[..., tf.Tensor], given: dict[str, Any]) -> tf.Tensor:
        if name == "dropout":
            return function(**given) if given["rate"] in (0.0, 1.0) else _applied(given, next(left))
        return next(left)

    with _replaced(give):
        yield


@contextlib.contextmanager
def _replaced(replacement: Callable[[str, Callable[..., tf.Tensor], dict[str, Any]], tf.Tensor]) -> Iterator[None]:
    """Let the random functions of Keras's backend be `replacement(name, the function, its arguments by name)`.

    Why: layers and `keras.random` call them as attributes of the backend's module, so that this is where all of Keras's
    random numbers pass through (Keras >= 3.0).
    """
    originals = {name: getattr(backend_random, name) for name in ("dropout", *_FROM_A_SHAPE, *_FROM_TENSORS)}

    def replaced(name: str, function: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
        signature = inspect.signature(function)

        def call(*args: Any, **kwargs: Any) -> tf.Tensor:
            return replacement(name, function, dict(signature.bind(*args, **kwargs).arguments))

        return call

    try:
        for name, function in originals.items():
            setattr(backend_random, name, replaced(name, function))
        yield
    finally:
        for name, function in originals.items():
            setattr(backend_random, name, function)


def _mask_shape(given: dict[str, Any]) -> list[int] | None:
    """None if it isn't known while tracing."""
    shape = given["inputs"].shape
    wanted = given.get("noise_shape")
    wanted = [None] * len(shape) if wanted is None else wanted
    found = [size if own is None else own for own, size in zip(wanted, shape)]
    return found if all(isinstance(size, int) for size in found) else None


def _mask(function: Callable[..., tf.Tensor], given: dict[str, Any], shape: Sequence[int]) -> tf.Tensor:
    """Which elements Keras's own dropout keeps of ones."""
    ones = tf.ones(shape, given["inputs"].dtype)
    return tf.cast(function(ones, given["rate"], seed=given.get("seed")), tf.bool)


def _applied(given: dict[str, Any], mask: tf.Tensor) -> tf.Tensor:
    """Dropout as `tf.nn.experimental.stateless_dropout` computes it, with its mask given."""
    inputs, rate = given["inputs"], given["rate"]
    return tf.where(mask, inputs * tf.cast(1 / (1 - rate), inputs.dtype), tf.zeros([], inputs.dtype))
