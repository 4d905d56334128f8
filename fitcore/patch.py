"""Keras's own methods, routed through fitcore: for scripts and libraries that call them deep inside.

    fitcore.patch_keras()          # from here on every model.fit, evaluate, train_on_batch, test_on_batch is fitcore's
    with fitcore.patch_keras() as patch: ...
    patch.calls, patch.fallbacks   # what went through fitcore, what did not and why

What fitcore can't run is run by Keras, with a warning that says why, and counted.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import keras

from fitcore import keras_private
from fitcore.checkpoint import Checkpoint
from fitcore.distributed_fit import why_not_saved
from fitcore.evaluation import evaluate, evaluate_cached, is_validating
from fitcore.fitting import fit
from fitcore.hooks import Hook
from fitcore.noise import GradientNoise
from fitcore.on_batch import test_on_batch, train_on_batch
from fitcore.supported import why_not

Hooks = Callable[[keras.Model], Sequence[Hook]]
Noise = Callable[[Any], GradientNoise | None]
Check = Callable[[Any, dict[str, Any], Sequence[Hook], GradientNoise | None], None]
Checkpoints = Callable[[Any, str | None], contextlib.AbstractContextManager[Checkpoint | None]]

_ROUTES: dict[str, Callable[..., Any]] = {
    "fit": fit,
    "evaluate": evaluate,
    "train_on_batch": train_on_batch,
    "test_on_batch": test_on_batch,
}


class Patch:
    """The patch that is on, and what it has counted. As a context manager it takes itself off again.

    Attributes:
      calls: by method: how many calls fitcore ran.
      fallbacks: by (method, reason): how many calls Keras ran itself.
      steps: optimizer steps that fitcore's fits made.
      seconds: the time they took.
    """

    def __init__(
        self,
        hooks: Hooks | None,
        noise: Noise | None = None,
        checkpoint: Checkpoints | None = None,
        check: Check | None = None,
    ) -> None:
        self.calls: Counter[str] = Counter()
        self.fallbacks: Counter[tuple[str, str]] = Counter()
        self.steps = 0
        self.seconds = 0.0
        self._hooks = hooks
        self._noise = noise
        self._check = check
        self._checkpoint: Checkpoints = checkpoint or (lambda model, why_not: contextlib.nullcontext())
        self.holders = 0  # calls of `patch_keras` that no leaving of a `with` has undone
        self.originals = {method: vars(keras_private.trainer_class)[method] for method in _ROUTES}
        self._signatures = {method: inspect.signature(original) for method, original in self.originals.items()}

    def __enter__(self) -> Patch:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.holders -= 1
        if self.holders == 0 and self is _active:
            unpatch_keras()

    def call(self, method: str, model: Any, *args: Any, **kwargs: Any) -> Any:
        """Run `model.<method>(*args, **kwargs)` by fitcore, or by Keras if fitcore can't."""
        original = self.originals[method]
        arguments = self._signatures[method].bind(model, *args, **kwargs).arguments
        if "kwargs" in arguments:  # fit evaluates with a private argument; any other is an error that Keras raises
            if arguments["kwargs"] != {"_use_cached_eval_dataset": True} or not is_validating(model):
                return original(model, *args, **kwargs)
            self.calls[method] += 1
            chosen = {name: arguments[name] for name in ("verbose", "callbacks", "return_dict") if name in arguments}
            return evaluate_cached(model, **chosen)
        reason = why_not(model, method, arguments.get("x"), arguments.get("validation_data"))
        if reason is not None:
            self._note_fallback(method, model, reason)
            with self._checkpoint(model, reason) if method == "fit" else contextlib.nullcontext():
                return original(model, *args, **kwargs)
        del arguments["self"]
        self.calls[method] += 1
        if method != "fit":
            return _ROUTES[method](model, **arguments)
        noise = self._noise(model) if self._noise else None
        hooks = self._hooks(model) if self._hooks else ()
        if self._check is not None:
            self._check(model, arguments, hooks, noise)
        unsaved = why_not_saved(model, arguments.get("x"), arguments.get("validation_data"))
        with self._checkpoint(model, unsaved) as checkpoint:
            history = fit(model, **arguments, hooks=hooks, noise=noise or False, checkpoint=checkpoint)
        self.steps += history.account["steps"]
        self.seconds += history.account["seconds"]
        return history

    def _note_fallback(self, method: str, model: Any, reason: str) -> None:
        if reason not in {known for _, known in self.fallbacks}:
            warnings.warn(f"Keras runs `{type(model).__name__}.{method}` itself, not fitcore: {reason}", stacklevel=4)
        self.fallbacks[method, reason] += 1


_active: Patch | None = None


def patch_keras(
    hooks: Hooks | None = None,
    noise: Noise | None = None,
    checkpoint: Checkpoints | None = None,
    check: Check | None = None,
) -> Patch:
    """Route `fit`, `evaluate`, `train_on_batch` and `test_on_batch` of every Keras model through fitcore.

    A class that overrides one of them is reached where it calls `super()`. Patching again changes nothing and returns the
    patch that is on; the end of a `with` takes the patch off unless something around it had put it on before.

    Args:
      hooks: called with the model before each fit; returns fitcore hooks for it.
      noise: called with the model before each fit; returns how to measure its gradient noise, or None.
      checkpoint: called with the model, and why it can't be saved or None, before each fit; returns a context manager for
        the fit, which gives its checkpoint or None. `fitcore.checkpoint.Calls` has one.
      check: called with the model, fit's arguments by name (which it may replace), the hooks and the noise before each fit.

    Raises:
      ValueError: if the patch is on already and `hooks`, `noise`, `checkpoint` or `check` are given.
    """
    global _active
    if _active is None:
        patch = Patch(hooks, noise, checkpoint, check)
        for method, original in patch.originals.items():
            setattr(keras_private.trainer_class, method, _routed(patch, method, original))
        _active = patch
    elif any(given is not None for given in (hooks, noise, checkpoint, check)):
        raise ValueError(
            "`hooks`, `noise`, `checkpoint` and `check` come too late: Keras is patched already. "
            "Call `fitcore.unpatch_keras()` first."
        )
    _active.holders += 1
    return _active


def unpatch_keras() -> None:
    """Give Keras its own methods back. Does nothing if they are there."""
    global _active
    if _active is not None:
        for method, original in _active.originals.items():
            setattr(keras_private.trainer_class, method, original)
        _active = None


def _routed(patch: Patch, method: str, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return patch.call(method, self, *args, **kwargs)

    return call
