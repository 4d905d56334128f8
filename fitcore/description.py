"""What a fit does, in a few lines: what `explain` says before it, and hooks that show the fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf

from fitcore import keras_private
from fitcore.arguments import changes_batch_size, with_brought
from fitcore.call_limits import SECONDS_PER_CALL, batch_callbacks, call_limits, overriding
from fitcore.checking.results import found, key_of
from fitcore.data import Reshuffle, Source, Stream
from fitcore.engine import Engine
from fitcore.hooks import Rules, name_of
from fitcore.noise import GradientNoise
from fitcore.noise.calls import rule_of
from fitcore.optimizers.fused import describe as form_of_update
from fitcore.plans import expected
from fitcore.recording import measured_noise, recorded
from fitcore.schedules.hyperparameters import named_schedules


def describe(engine: Engine, given: Mapping[str, Any], data: str, stream: Stream | None) -> str:
    """What `fit` with these arguments does; nothing is trained and nothing is traced.

    Args:
      engine: trains, in the fit's settings.
      given: fit's arguments by name, defaults and the hooks that fit adds included.
      data: where batches come from and in which order, in words.
      stream: they come from; None if it isn't there yet.
    """
    lines = {"data": data, "validation": _validation(given)} | _calls(engine, given, stream)
    lines["step"] = _step(engine)
    lines["update"] = _update(engine, given["numerics"])
    if given["numerics"] == "fast":
        source = None if stream is None else stream.source
        lines["plan"] = expected(engine, source, *asked_of_steps(engine, given), given["plan"])[1]
    noise = measured_noise(engine, given["noise"], given["hooks"])
    if noise is not None:
        lines["noise"] = _noise(engine, noise)
    schedules = named_schedules(given["schedule"])
    if schedules:
        lines["schedule"] = "; ".join(f"{name}: {each}" for name, each in schedules.items())
    if given["checkpoint"] is not None:
        where = given["checkpoint"]
        lines["checkpoint"] = f"every {where.every.strip()}, in {where.directory}; resume={where.resume}"
    lines["traces"] = _traces(engine, given, stream)
    lines["exact"] = _exactness(engine, given, None if stream is None else stream.source)
    head = f"fitcore.fit of {getattr(engine.model, 'name', type(engine.model).__name__)!r}: {_length(given, stream)}"
    return "\n".join([head, *(f"  {name:<12}{line}" for name, line in lines.items())])


def asked_of_steps(engine: Engine, given: Mapping[str, Any]) -> tuple[dict[str, Any], Rules | None]:
    """What is recorded at each step, and the rules that decide after it."""
    noise = measured_noise(engine, given["noise"], given["hooks"])
    rules = tuple(hook.in_loop for hook in given["hooks"] if hook.in_loop is not None)
    return recorded(engine, given["record"], given["hooks"], noise), Rules(rules) if rules else None


def _validation(given: Mapping[str, Any]) -> str:
    if given["validation_data"] is None and not given["validation_split"]:
        return "none"
    which = "validation_data"
    if given["validation_data"] is None:
        which = f"the last {given['validation_split']:.3g} of the rows"
    every = given["validation_freq"]
    if isinstance(every, list):
        return f"on {which}, after epochs {every}, the first being 1"
    return f"on {which}, after " + ("every epoch" if every == 1 else f"every {every} epochs")


def _length(given: Mapping[str, Any], stream: Stream | None) -> str:
    steps = given["steps_per_epoch"] if stream is None else stream.num_steps
    epochs = max(given["epochs"] - given["initial_epoch"], 0)
    size = "as many steps as the data turn out to hold" if steps is None else _count(steps, "step")
    return f"{_count(epochs, 'epoch')} of {size}"


def _calls(engine: Engine, given: Mapping[str, Any], stream: Stream | None) -> dict[str, str]:
    """How many steps run per compiled call and why no more, and what runs on the host between the calls."""
    callbacks = list(_callbacks(given))
    hooks = with_brought(given["hooks"], callbacks)
    if engine.run_eagerly:
        return {"calls": "none: run_eagerly, each op runs by itself", "host": "everything"}
    limits = call_limits(callbacks, hooks, engine.steps_per_execution)
    if given["checkpoint"] is not None and given["checkpoint"].interval()[1] == "step":
        limits.append((given["checkpoint"].interval()[0], "a checkpoint"))
    most = min((steps for steps, _ in limits), default=None)
    whole = "an epoch" if stream is None or stream.num_steps is None else f"an epoch's {_count(stream.num_steps, 'step')}"
    calls = f"up to {whole if most is None else _count(most, 'step')} per compiled call"
    if most != 1:
        calls += f", back on the host after {SECONDS_PER_CALL} s at the latest"
    for steps, whose in limits:
        calls += f"\n{'':14}every {_count(steps, 'step')}: {whose}"
    ruled = [name_of(hook) for hook in hooks if hook.in_loop is not None]
    if ruled:
        calls += f"\n{'':14}decided inside the call, after each step: {_names(ruled)}"
    after_call = [type(callback).__name__ for callback in batch_callbacks(callbacks, "train")]
    after_call += [name_of(hook) for hook in hooks if hook.when.returns or hook.when.steps is not None]
    after_epoch = [type(callback).__name__ for callback in overriding(callbacks, ("on_epoch_begin", "on_epoch_end"))]
    after_epoch += [name_of(hook) for hook in hooks if hook.when.epochs]
    when = "at each step" if most == 1 else "at each step nothing; after a call"
    return {"calls": calls, "host": f"{when} {_names(after_call)}; at an epoch's ends {_names(after_epoch)}"}


def _count(n: int, what: str) -> str:
    return f"{n} {what}" + "s" * (n != 1)


def _names(names: list[str]) -> str:
    return ", ".join(names) or "nothing"


def _callbacks(given: Mapping[str, Any]) -> Iterator[keras.callbacks.Callback]:
    callbacks = given["callbacks"]
    if isinstance(callbacks, keras.callbacks.CallbackList):
        yield from callbacks.callbacks
    elif isinstance(callbacks, keras.callbacks.Callback):
        yield callbacks
    else:
        yield from tf.nest.flatten(callbacks) if callbacks else ()


def _step(engine: Engine) -> str:
    parts = engine.parts
    how = "the model's own train_step" if engine.has_own_step else "forward, loss, gradient, optimizer, metrics"
    compiled = "run op by op" if engine.run_eagerly else "compiled by XLA" if engine.jit_compile else "compiled without XLA"
    policy = getattr(getattr(engine.model, "dtype_policy", None), "name", keras.config.floatx())
    device = "GPU" if tf.config.get_visible_devices("GPU") else "CPU"
    return f"{how}; {compiled}; {policy}; {type(parts.optimizer).__name__}; on {device}"


def _update(engine: Engine, numerics: str) -> str:
    """In which form the optimizer updates the weights."""
    optimizer, variables = engine.parts.optimizer, engine.parts.trainable()
    form = form_of_update(optimizer, variables, numerics, engine.jit_compile, engine.run_eagerly)
    return f"{type(optimizer).__name__}: {form}"


def _noise(engine: Engine, noise: GradientNoise) -> str:
    """How often and how the gradient noise is measured, as far as that can be known before the step is traced."""
    often = "at each step" if noise.every == 1 else f"every {_count(noise.every, 'step')}"
    apart = f"batches split into {noise.splits}"
    if engine.num_replicas > 1:
        apart = f"{engine.num_replicas} replicas compared"
    if noise.estimator in ("split", "replicas"):
        return f"{often}, {apart}"
    kinds: dict[bool, list[str]] = {True: [], False: []}
    for layer in keras_private.all_layers(engine.model):
        if any(id(v) in keras_private.own_weights(layer) for v in engine.parts.trainable()):
            kinds[rule_of(layer) is not None or hasattr(layer, "state_size")].append(type(layer).__name__)
    rules, others = (", ".join(sorted(set(kinds[ruled]))) or "none" for ruled in (True, False))
    rest = "row by row" if noise.estimator == "per_example" else f"row by row, or else {apart}"
    return f"{often}, per example; layers with a rule: {rules}; others, {rest}: {others}; history.noise.how will say"


def _traces(engine: Engine, given: Mapping[str, Any], stream: Stream | None) -> str:
    if engine.run_eagerly:
        return "none"
    program = engine.train_program(*asked_of_steps(engine, given))
    ready = stream is not None and program.is_traced(stream.source)
    return f"{engine.traces} so far; this fit " + ("has its program ready" if ready else "traces one more at its first step")


def _exactness(engine: Engine, given: Mapping[str, Any], source: Source | None) -> str:
    """Whether and why not, from what can be known before training."""
    against = f"model.fit of Keras {keras.__version__} on TensorFlow {tf.__version__}"
    if not engine.is_compiled:
        return f"not defined: the engine's parts were given one by one, so there is no {against} to compare with"
    if isinstance(given["shuffle"], Reshuffle):
        return f"no: shuffle={given['shuffle']} visits the rows in another order than {against}"
    if changes_batch_size(given["hooks"]):
        return f"not defined: the batch size may change, which {against} can't do"
    if given["numerics"] == "fast":
        return f'no: numerics="fast" rounds otherwise than {against}'
    if given["schedule"]:
        return f"not defined: {against} has no `schedule` to compare with"
    checked = found(key_of(engine, source, given))
    if checked is not None and not checked.identical and checked.keras_repeats:
        return f"no: {checked.in_short()}; {against}"
    verdict = f"yes: bit-identical to {against}"
    if keras_private.global_seed() is None:
        verdict += ", from the same random state (no global seed is set: neither repeats itself)"
    if tf.config.get_visible_devices("GPU") and not keras_private.op_determinism():
        verdict += ", as far as that repeats itself on a GPU (op determinism is off)"
    tried = "not checked on this machine: fitcore.check does" if checked is None else checked.in_short()
    return f"{verdict}; {tried}"
