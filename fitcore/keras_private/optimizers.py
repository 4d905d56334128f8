"""Optimizers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf


def steps_counted(optimizer: keras.optimizers.Optimizer) -> int:
    """How many steps the optimizer has made, micro-steps if it accumulates gradients.

    Why: `iterations` is divided by the number of accumulated steps, its rest lost; `_iterations` is not (Keras >= 3.2).
    """
    return int(getattr(optimizer, "inner_optimizer", optimizer)._iterations.numpy())


def has_own_schedule(optimizer: keras.optimizers.Optimizer) -> bool:
    """Whether its learning rate is a schedule or a function and can't be set. Why: the public `learning_rate` is the value
    at this step (Keras >= 3.0)."""
    return callable(getattr(optimizer, "inner_optimizer", optimizer)._learning_rate)


def inner_optimizer(optimizer: Any) -> Any:
    """The optimizer inside a LossScaleOptimizer, else itself. Why: an attribute of this one class alone (Keras >= 3.0)."""
    return optimizer.inner_optimizer if isinstance(optimizer, keras.optimizers.LossScaleOptimizer) else optimizer


def has_own_update(optimizer: Any) -> bool:
    """Whether a method that updates was set on the object. Why: `_backend_update_step` calls `update_step` (Keras >= 3.2)."""
    return bool({"apply", "update_step", "_backend_update_step", "_backend_apply_gradients"} & vars(optimizer).keys())


@contextlib.contextmanager
def update_replaced(optimizer: Any, update: Callable[[Any, Any, Any], None]) -> Iterator[None]:
    """Let Keras's `apply` call `update(gradients, variables, learning_rate)` instead of `update_step` for each variable.

    Why: `_backend_update_step` is just that loop; before it all of clipping, weight decay and accumulation is done, after it
    averages, constraints and counting (Keras >= 3.2). Not setattr: Keras would look for variables in it.
    """
    vars(optimizer)["_backend_update_step"] = update
    try:
        yield
    finally:
        del vars(optimizer)["_backend_update_step"]


def sums_first(optimizer: Any) -> bool:
    """Whether the first thing that the update does with gradients, with several replicas, is to sum them over these.

    Why: what comes before it, in `apply` and `_backend_apply_gradients`, can't be asked for (Keras >= 3.2).
    """
    base = keras.optimizers.Optimizer
    return (
        isinstance(optimizer, base)
        and all(getattr(type(optimizer), name) is getattr(base, name) for name in ("apply", "_backend_apply_gradients"))
        and not has_own_update(optimizer)
        and not optimizer.gradient_accumulation_steps
        and all(getattr(optimizer, name) is None for name in ("loss_scale_factor", "clipnorm", "clipvalue", "global_clipnorm"))
    )


_SLOTS = {
    "momentum": ("momentums", "_momentums"),
    "m": ("_momentums",),
    "v": ("_velocities",),
    "v_hat": ("_velocity_hats",),
    "average": ("_average_gradients",),
}


def optimizer_slots(optimizer: Any, weights: Sequence[tf.Variable]) -> dict[str, list[tf.Variable]]:
    """SGD's, Adam's or RMSprop's variables for each of these weights, by kind; kinds that it doesn't have are left out.

    Why: they are private, and so is `_get_variable_index`, which says whose is whose (Keras >= 3.2).
    """
    indices = [optimizer._get_variable_index(weight) for weight in weights]
    slots = {}
    for kind, names in _SLOTS.items():
        variables = next((getattr(optimizer, name) for name in names if getattr(optimizer, name, None)), None)
        if variables:
            slots[kind] = [variables[i].value for i in indices]
    return slots


def variable_index(optimizer: Any, variable: Any) -> int:
    """The position of a weight's slots in the optimizer's lists. Why: not public, though Keras's docs use it (Keras >= 3.2)."""
    return int(optimizer._get_variable_index(variable))


def count_step(optimizer: Any) -> None:
    """Count a step that made no update. Why: `iterations` is what is shown, `_iterations` the counter (Keras >= 3.2)."""
    optimizer._iterations.assign_add(1)
