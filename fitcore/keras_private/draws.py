"""Keras's random numbers, drawn before the step that uses them.

A SeedGenerator's state is the next draw's seed, two integers of which the second counts. So the seeds of many steps are known
beforehand, and what they draw can be drawn side by side; only afterwards is the state moved on.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import inspect
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from keras.src.backend.tensorflow import random as backend_random
from keras.src.random.seed_generator import SeedGenerator

_FROM_A_SHAPE = ("normal", "uniform", "truncated_normal", "randint")
_FROM_TENSORS = ("categorical", "gamma", "binomial", "beta", "shuffle")  # what they draw may depend on what a step computes


class NotDrawableError(Exception):
    """What a step draws can't be drawn before the step."""


@dataclass(frozen=True)
class Draw:
    """One draw of a step.

    Attributes:
      make: (seed, two integers) -> what Keras draws with it, traced: of dropout, which elements stay, else the numbers.
      spec: its shape and dtype.
      state: the generator's; None if the seed is fixed, whatever `make` is given.
    """

    make: Callable[[tf.Tensor], tf.Tensor]
    spec: tf.TensorSpec
    state: tf.Variable | None


def seeds_ahead(draws: Sequence[Draw], skipped: tf.Tensor, steps: int) -> list[tf.Tensor]:
    """The seeds of `steps` steps, traced, the next `skipped` ones left out: for each draw of a step int64 [steps, 2].

    The generators stay as they are.
    """
    of_a_step = Counter(id(draw.state) for draw in draws)
    met: Counter[int] = Counter()
    seeds = []
    for draw in draws:
        state = id(draw.state)
        numbers = (skipped + tf.range(steps, dtype=skipped.dtype)) * of_a_step[state] + met[state]
        met[state] += 1
        ahead = tf.stack([tf.zeros_like(numbers), numbers], axis=1)
        seeds.append(ahead if draw.state is None else draw.state + tf.cast(ahead, draw.state.dtype))
    return seeds


def move_on(draws: Sequence[Draw], steps: tf.Tensor) -> None:
    """Put the generators where so many steps leave them, traced."""
    states = {id(draw.state): draw.state for draw in draws if draw.state is not None}
    for key, state in states.items():
        drawn = tf.cast(steps, state.dtype) * sum(id(draw.state) == key for draw in draws)
        state.assign_add(tf.stack([tf.zeros_like(drawn), drawn]), read_value=False)


class _Known(SeedGenerator):
    """Stands for a generator where a layer asks for its next seed, which is known already.

    Why: the backend's random functions take a SeedGenerator or an int, and call `next` of the former (Keras >= 3.0).
    """

    def __init__(self, seed: tf.Tensor) -> None:
        self._seed = seed

    def next(self, ordered: bool = True) -> tf.Tensor:
        return self._seed


@functools.cache
def _generators_count() -> bool:
    """Whether a SeedGenerator's state is its next seed, and moves on by (0, 1): so in Keras 3.0 to 3.15."""
    with tf.init_scope():
        generator = SeedGenerator(5)
        states = [generator.state.numpy()]
        seeds = []
        for _ in range(2):
            seeds.append(generator.next().numpy())
            states.append(generator.state.numpy())
    return np.array_equal(seeds, states[:2]) and np.array_equal(np.diff(states, axis=0), [[0, 1], [0, 1]])


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
        generator = given.get("seed")
        if generator is None:
            raise refuse(f"keras.random.{name} is called without a seed")
        if not _generators_count():
            raise refuse("the installed Keras's SeedGenerator does not count")
        if isinstance(generator, SeedGenerator) and not isinstance(generator.state.value, tf.Variable):
            raise refuse(f"keras.random.{name} is called again, to measure the gradient noise of a layer that has no rule")
        draw: Callable[[dict[str, Any]], tf.Tensor]
        if name == "dropout":
            shape = _mask_shape(given)
            if shape is None:
                raise refuse("the shape of a dropout's mask depends on what the step computes")
            draw = functools.partial(_mask, shape)
        elif name in _FROM_TENSORS or any(tf.is_tensor(each) for each in tf.nest.flatten(given)):
            raise refuse(f"what keras.random.{name} draws depends on what the step computes")
        else:
            draw = functools.partial(_numbers, function)
        drawn = draw(given)
        spec = tf.TensorSpec(drawn.shape, drawn.dtype)
        if isinstance(generator, SeedGenerator):
            make = lambda seed: draw({**given, "seed": _Known(seed)})  # noqa: E731
            draws.append(Draw(make, spec, generator.state.value))
        else:
            draws.append(Draw(lambda seed: draw(given), spec, None))
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


Replacement = Callable[[str, Callable[..., tf.Tensor], dict[str, Any]], tf.Tensor]

# Of what is traced in this thread. Other threads go on with Keras's own functions meanwhile.
_replacement: contextvars.ContextVar[Replacement | None] = contextvars.ContextVar("replacement", default=None)
_originals: dict[str, Callable[..., tf.Tensor]] = {}  # while anybody replaces them
_users, _lock = 0, threading.Lock()


@contextlib.contextmanager
def _replaced(replacement: Replacement) -> Iterator[None]:
    """In this thread, let the random functions of Keras's backend be `replacement(name, the function, its arguments by name)`.

    Why: layers and `keras.random` call them as attributes of the backend's module, so that this is where all of Keras's
    random numbers pass through (Keras >= 3.0). The module is every thread's. What is put there calls Keras's own function
    unless the thread that calls it has a replacement.
    """
    _use(1)
    token = _replacement.set(replacement)
    try:
        yield
    finally:
        _replacement.reset(token)
        _use(-1)


def _use(more: int) -> None:
    """Count who replaces the functions: the first puts the dispatchers there, the last takes them away."""
    global _users
    with _lock:
        if _users == 0:
            _originals.update({name: getattr(backend_random, name) for name in ("dropout", *_FROM_A_SHAPE, *_FROM_TENSORS)})
            for name, function in _originals.items():
                setattr(backend_random, name, _dispatcher(name, function))
        _users += more
        if _users == 0:
            for name, function in _originals.items():
                setattr(backend_random, name, function)
            _originals.clear()


def _dispatcher(name: str, function: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> tf.Tensor:
        replacement = _replacement.get()
        if replacement is None:
            return function(*args, **kwargs)
        return replacement(name, function, dict(signature.bind(*args, **kwargs).arguments))

    return call


def _mask_shape(given: dict[str, Any]) -> list[int] | None:
    """None if it isn't known while tracing."""
    shape = given["inputs"].shape
    wanted = given.get("noise_shape")
    wanted = [None] * len(shape) if wanted is None else wanted
    found = [size if own is None else own for own, size in zip(wanted, shape)]
    return found if all(isinstance(size, int) for size in found) else None


def _numbers(function: Callable[..., tf.Tensor], given: dict[str, Any]) -> tf.Tensor:
    return function(**given)


def _mask(shape: Sequence[int], given: dict[str, Any]) -> tf.Tensor:
    """Which elements Keras's dropout keeps, as it finds out: of `tf.nn.experimental.stateless_dropout` what comes before the
    inputs. Why `_cast_seed`: of any seed it makes what TensorFlow's functions take (Keras >= 3.0)."""
    seed = backend_random._cast_seed(backend_random.draw_seed(given["seed"]))
    return tf.random.stateless_uniform(shape, seed, dtype=given["inputs"].dtype) >= given["rate"]


def _applied(given: dict[str, Any], mask: tf.Tensor) -> tf.Tensor:
    """Dropout as `tf.nn.experimental.stateless_dropout` computes it, with its mask given."""
    inputs, rate = given["inputs"], given["rate"]
    return tf.where(mask, inputs * tf.cast(1 / (1 - rate), inputs.dtype), tf.zeros([], inputs.dtype))
