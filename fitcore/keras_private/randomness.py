"""Seeds and global random generators."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from keras.src.backend.common import global_state
from keras.src.random.seed_generator import global_seed_generator
from tensorflow.python.eager import context as tf_context
from tensorflow.python.framework.config import is_op_determinism_enabled
from tensorflow.python.ops import stateful_random_ops


def global_seed() -> int | None:
    """TensorFlow's global seed, None if unset.

    Why: with a seed Keras's permutation is a constant that need be drawn only once. TensorFlow's public `get_seed` would
    draw from its generator, and so change the run (TensorFlow >= 2.0).
    """
    seed = tf_context.global_seed()
    return None if seed is None else int(seed)


def op_determinism() -> bool:
    """Whether `tf.config.experimental.enable_op_determinism` is on. Why: there is no public getter (TensorFlow >= 2.8)."""
    return bool(is_op_determinism_enabled())


def eager_random_state() -> Any:
    """State of the generator that gives eager random ops their seeds, a `random.Random`'s; None without a global seed.

    Why: there is no public getter, and after a resume eager ops must draw what they would have drawn (TensorFlow >= 2.0).
    """
    return tf_context.context()._rng.getstate() if global_seed() is not None else None


def set_eager_random_state(state: Any) -> None:
    """Put such a state back. Why: as above; `tf.random.set_seed` can only start it afresh (TensorFlow >= 2.0)."""
    tf_context.context()._rng.setstate(state)


def global_generator_state() -> dict[str, Any] | None:
    """State of `tf.random.get_global_generator()`, None if nobody has asked for it yet.

    Why: the public getter would make one (TensorFlow >= 2.4).
    """
    generator = stateful_random_ops.global_generator
    return None if generator is None else {"state": generator.state.numpy(), "algorithm": int(generator.algorithm)}


def set_global_generator_state(state: dict[str, Any]) -> None:
    """Put such a state back, into the generator that is there or a new one. Why: as above (TensorFlow >= 2.4)."""
    if stateful_random_ops.global_generator is None:
        tf.random.set_global_generator(tf.random.Generator.from_state(state["state"], state["algorithm"]))
    else:
        stateful_random_ops.global_generator.reset(state["state"])


def global_seed_generator_state() -> np.ndarray | None:
    """State of the generator behind `keras.random` ops without a seed, None if nobody has drawn from it yet.

    Why: it belongs to no layer, so it is in no model's variables (Keras >= 3.0; 3.12 has no constant for its name).
    """
    generator = global_state.get_global_attribute("global_seed_generator")
    return None if generator is None else np.array(generator.state)


def set_global_seed_generator_state(state: np.ndarray) -> None:
    """Put such a state back. Why: as above (Keras >= 3.0)."""
    global_seed_generator().state.assign(state)


def keras_globals() -> Callable[[], None]:
    """What Keras keeps for the whole thread, such as how often a layer's name was given; the call returned puts it back.

    Why: it is in no object that a model leads to, and the next layer's name depends on it (Keras >= 3.0).
    """
    kept = vars(global_state.GLOBAL_STATE_TRACKER)
    before, names = dict(kept), dict(kept.get("object_name_uids", {}))

    def put_back() -> None:
        kept.clear()
        kept.update(before)
        if "object_name_uids" in kept:
            kept["object_name_uids"].clear()
            kept["object_name_uids"].update(names)

    return put_back


@contextlib.contextmanager
def seeded() -> Iterator[None]:
    """Within it there is a global seed of TensorFlow's: its own, or any if there is none.

    Without one, ops that draw begin anywhere, and nothing that draws repeats itself. Why: a seed can be set by a public call,
    but not taken away again (TensorFlow >= 2.0).
    """
    if global_seed() is not None:
        yield
        return
    context = tf_context.context()
    context._seed, context._rng = 1, random.Random(1)
    try:
        yield
    finally:
        context._seed = None
        del context._rng  # nobody asks for it without a seed
