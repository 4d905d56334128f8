"""What fit would do, said without doing it."""

from __future__ import annotations

import inspect
from typing import Any

import keras

from fitcore import keras_private
from fitcore.arguments import changes_batch_size, check_arguments, first_batch_size
from fitcore.data import Stream, make_source
from fitcore.description import asked_of_steps, describe
from fitcore.engine import Engine
from fitcore.fitting import fit
from fitcore.plans import expected
from fitcore.schedules.hyperparameters import named_schedules
from fitcore.supported import check_model


def explain(model: keras.Model | Engine, x: Any = None, y: Any = None, **arguments: Any) -> str:
    """What `fitcore.fit(model, x, y, **arguments)` would do, in a few lines; nothing is trained and nothing is traced.

    Says where batches come from and in which order, how many steps there are, how many run per compiled call and which
    hook or callback limits that, what else runs on the host, how the step is compiled and in which precision, how many
    programs have been traced, and whether the result is bit-identical to `model.fit` and if not why.

    A Python generator is not looked into, since that would take batches out of it.

    Raises:
      ValueError, TypeError: what fit would raise before its first step.
    """
    if not isinstance(model, Engine):
        check_model(model, "fit")
    engine = model if isinstance(model, Engine) else Engine.of_compiled(model)
    bound = inspect.signature(fit).bind(engine, x, y, **arguments)
    bound.apply_defaults()
    given = bound.arguments
    check_arguments(given)

    schedules = named_schedules(given["schedule"])
    rows, given["hooks"] = first_batch_size(given["batch_size"], schedules, given["hooks"], engine.steps_done())
    given["batch_size"] = rows
    data, stream = _data(engine, given)
    with engine.settings(schedules, given["numerics"]):
        if given["numerics"] == "fast":
            source = None if stream is None else stream.source
            engine.by_xla, _ = expected(engine, source, *asked_of_steps(engine, given), given["plan"])
        return describe(engine, given, data, stream)


def _data(engine: Engine, given: dict[str, Any]) -> tuple[str, Stream | None]:
    x, y, sample_weight = given["x"], given["y"], given["sample_weight"]
    if inspect.isgenerator(x):
        return "a Python generator, in its own order", None
    if given["validation_split"] and given["validation_data"] is None:
        parts = keras_private.train_validation_split((x, y, sample_weight), given["validation_split"])
        x, y, sample_weight = parts[0]
    names = ("batch_size", "steps_per_epoch", "shuffle", "class_weight")
    resizable = changes_batch_size(given["hooks"])
    source = make_source(
        x, y, sample_weight, **{name: given[name] for name in names}, resizable=resizable, strategy=engine.strategy
    )
    return source.describe(), Stream(source, given["steps_per_epoch"], engine.steps_per_execution)
