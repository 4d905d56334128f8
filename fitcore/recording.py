"""What a fit records at each step: scalars, and the gradient noise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fitcore.engine import Engine
from fitcore.hooks import Hook
from fitcore.noise import NOISE_TOTALS, GradientNoise
from fitcore.step import Recorder


def recorded(
    engine: Engine,
    record: Iterable[str] | Mapping[str, Any] | None,
    hooks: Sequence[Hook],
    noise: GradientNoise | None = None,
) -> dict[str, Recorder | None]:
    """All that a fit with these arguments records, and how; None stands for "take it from the logs".

    Raises:
      TypeError, ValueError: as `Engine.recorders`.
    """
    noise_record: Mapping[str, Any] = {} if noise is None else {"noise": noise}
    given = engine.default_record if record is None else record
    asked = engine.recorders(given, *(hook.record for hook in hooks), noise_record)
    read = [name for hook in hooks if hook.in_loop is not None for name in hook.in_loop.needs]
    return asked | engine.recorders([name for name in read if name not in asked and name not in NOISE_TOTALS])


def measured_noise(engine: Engine, noise: bool | GradientNoise, hooks: Iterable[Hook] = ()) -> GradientNoise | None:
    """What fit's `noise` asks for, or, where it asks for nothing, what a hook's rule reads.

    Raises:
      TypeError, ValueError: it is something else, or the engine's step can't be measured.
    """
    if noise is False or noise is None:
        read = {name for hook in hooks if hook.in_loop for name in hook.in_loop.needs} & set(NOISE_TOTALS)
        if not read:
            return None
        noise = GradientNoise(per_layer=False, evidence="noise/evidence" in read)
    if not isinstance(noise, (bool, GradientNoise)):
        raise TypeError(f"`noise` must be True, False or a fitcore.GradientNoise. Received: noise={noise!r}")
    if engine.has_own_step:
        raise ValueError(
            f"`noise`: {type(engine.model).__name__} has a train_step of its own, whose loss and gradients can't be seen. Put "
            "what is its own into `compute_loss` or `call`, or make an `Engine` of its parts."
        )
    if engine.run_eagerly:
        raise ValueError("`noise` is measured inside the compiled step. Received: a model compiled with run_eagerly=True")
    return GradientNoise() if noise is True else noise
