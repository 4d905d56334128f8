"""What a fit can't do yet under a `tf.distribute` strategy, refused before it begins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf

from fitcore import keras_private
from fitcore.arguments import changes_batch_size
from fitcore.data import ArraySource, Source
from fitcore.engine import Engine
from fitcore.noise import GradientNoise
from fitcore.step import Recorder


def check_strategy(
    engine: Engine,
    given: Mapping[str, Any],
    source: Source,
    noise: GradientNoise | None = None,
    record: Mapping[str, Recorder | None] | None = None,
) -> None:
    """Refuse what isn't there under the engine's strategy; without one, nothing but what needs one.

    Args:
      engine: what is trained.
      given: fit's arguments by name, its `hooks` those that the fit adds included.
      source: the data.
      noise: how the gradient noise is measured, for the fit or for one of its hooks.
      record: what is recorded at each step.

    Raises:
      ValueError: names the argument.
    """
    for measured in (noise, getattr(engine.parts.optimizer, "noise", None)):
        if measured is not None:
            measured.check(engine.num_replicas)
    if not engine.is_compiled and is_in_scope(engine.model):
        raise ValueError(
            "`model`: an Engine of explicit parts trains without a tf.distribute strategy. Received: one under one"
        )
    for reason in _reasons(engine, given, source, noise, record or {}):
        strategy = engine.strategy
        raise ValueError(f"{reason}, under a {type(strategy).__name__} of {engine.num_replicas} replicas.")


def is_in_scope(model: Any) -> bool:
    """Whether a model, or a layer, belongs to a strategy."""
    own = keras_private.strategy_of(model) if keras_private.is_trainer(model) else None
    return own is not None or tf.distribute.has_strategy()


def why_not_saved(model: Any, x: Any, validation_data: Any) -> str | None:
    """Why a fit of this model on these data can't have a checkpoint, for those who would give it one unasked; else None."""
    if not is_in_scope(model) or keras_private.are_arrays((x, *(validation_data or ()))):
        return None
    return "under a tf.distribute strategy a checkpoint needs arrays, for validation too"


def _reasons(
    engine: Engine, given: Mapping[str, Any], source: Source, noise: GradientNoise | None, record: Mapping[str, Recorder | None]
) -> Iterator[str]:
    if engine.strategy is None:
        return
    if given["numerics"] == "fast":
        yield '`numerics="fast"` can\'t be had'
    if changes_batch_size(given["hooks"]):
        yield "`batch_size` can't change from step to step"
    if given["checkpoint"] is not None and not isinstance(source, ArraySource):
        yield "`checkpoint` needs dense arrays for `x`: a strategy's own dataset can't be gone on from"
    if given["checkpoint"] is not None and not keras_private.are_arrays(given["validation_data"] or ()):
        yield "`checkpoint` needs arrays for `validation_data`: a strategy's own dataset can't be gone on from"
    if engine.num_replicas == 1:
        return
    optimizer = engine.parts.optimizer
    if getattr(optimizer, "noise", None) is not None:
        yield f"`optimizer` must not follow the gradient noise, as {type(optimizer).__name__} does"
    if optimizer is not None and not isinstance(optimizer, keras.optimizers.Optimizer):
        yield f"`optimizer` must be Keras's, which sums gradients over replicas; received {type(optimizer).__name__}"
    alone = sorted(name for name, recorder in record.items() if getattr(recorder, "on_one_replica", False))
    if alone:
        yield f"`hooks` hold a fitcore.TensorBoard that asks for {alone}, which can't be looked at"
