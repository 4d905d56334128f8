"""What a fit can't do yet under a `tf.distribute` strategy, refused before it begins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import keras

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
    """Refuse what isn't there under the engine's strategy; without one, nothing.

    Args:
      engine: what is trained.
      given: fit's arguments by name, its `hooks` those that the fit adds included.
      source: the data.
      noise: how the gradient noise is measured, for the fit or for one of its hooks.
      record: what is recorded at each step.

    Raises:
      ValueError: names the argument.
    """
    for reason in _reasons(engine, given, source, noise, record or {}):
        strategy = engine.strategy
        raise ValueError(f"{reason}, under a {type(strategy).__name__} of {strategy.num_replicas_in_sync} replicas.")


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
    if engine.strategy.num_replicas_in_sync == 1:
        return
    optimizer = engine.parts.optimizer
    if noise is not None or getattr(optimizer, "noise", None) is not None:
        yield "`noise` can't be measured, neither for the fit nor for a hook or an optimizer"
    if optimizer is not None and not isinstance(optimizer, keras.optimizers.Optimizer):
        yield f"`optimizer` must be Keras's, which sums gradients over replicas; received {type(optimizer).__name__}"
    alone = sorted(name for name, recorder in record.items() if getattr(recorder, "on_one_replica", False))
    if alone:
        yield f"`hooks` hold a fitcore.TensorBoard that asks for {alone}, which can't be looked at"
