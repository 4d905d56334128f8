"""`check`: whether fitcore's training has the bits of Keras's, tried on this model, these data and this machine.

    fitcore.check(model, x, y, noise=True)       # a CheckResult: "bit-identical over 50 steps (plain, with noise)"
    python -m fitcore --check script.py          # each fit of a script is checked before it is trained

Keras trains twice, to know whether it repeats itself, then fitcore trains, without and with what was asked of it beside the
training. Each training starts from the same state, since afterwards everything is put back: see rollback.py.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import keras

from fitcore import keras_private
from fitcore.arguments import check_arguments, check_count
from fitcore.checking.batches import first_batches, out_of_generator
from fitcore.checking.locate import Operation, first_step, operation, owner_of
from fitcore.checking.results import CheckResult, here, key_of, remember
from fitcore.checking.rollback import Snapshot
from fitcore.checking.trainings import Left, asked_beside, by_fitcore, by_keras, variables
from fitcore.data import Reshuffle, Source, Stream, make_source
from fitcore.engine import Engine
from fitcore.fitting import fit
from fitcore.supported import check_model

__all__ = ["CheckResult", "check"]


def check(model: keras.Model, x: Any = None, y: Any = None, *, steps: int = 50, **arguments: Any) -> CheckResult:
    """Train some steps by Keras's own `fit` and by `fitcore.fit`, compare all bits, and put everything back.

    Afterwards the model, its optimizer, metrics and whatever else they lead to are as they were, and so are the random
    generators of Python, NumPy, TensorFlow and Keras. The result is remembered on disk, and `fitcore.explain` tells it.

    Callbacks and hooks are not called, since they may write, print or send: stand-ins that do nothing return to the host as
    often as they would. There is no validation. A Python generator has given its first batches away, as
    many as a pass of `steps` needs.

    Args:
      model: a compiled Keras model.
      x, y: as in `fitcore.fit`.
      steps: how many steps each training makes. If a pass over the data has fewer, whole passes: then it may be a few more.
      arguments: more of `fitcore.fit`'s arguments. `noise`, `record` and `hooks` are tried in a training of their own.

    Returns:
      A `CheckResult`, which says in words (`str`) what is the same, or what differs first, and what to do.

    Raises:
      TypeError, ValueError: as `fitcore.fit`; and for what Keras's fit hasn't got, so that there is nothing to compare with:
        numerics="fast", `schedule`, a function as `batch_size`, `shuffle=Reshuffle(...)`.
    """
    if isinstance(model, Engine):
        raise TypeError("`model` must be a compiled Keras model: Keras can't train an Engine. Received: an Engine")
    try:
        bound = inspect.signature(fit).bind(model, x, y, **arguments)
    except TypeError as error:
        raise TypeError(f"`arguments` must be those of fitcore.fit: {error}. Received: {sorted(arguments)}") from None
    bound.apply_defaults()
    given = bound.arguments
    check_model(model, "fit", x, given["validation_data"])
    check_arguments(given)
    check_count("steps", steps)
    _check_comparable(given)

    # Before the generators are looked at: it may draw from them, and does not get its batches back either.
    given["x"] = out_of_generator(x, min(steps, given["steps_per_epoch"] or steps))
    with warnings.catch_warnings(), keras_private.seeded():
        warnings.simplefilter("ignore")  # what the fit itself says, it says when it is made
        own_data = isinstance(x, keras.utils.PyDataset)  # an object of the user's, which may draw or count as it is read
        snapshot = Snapshot([model, given["hooks"], *[x] * own_data], [*[x] * (not own_data), y, given["sample_weight"]])
        try:
            return _compared(model, given, steps, snapshot)
        finally:
            snapshot.put_back()


def _check_comparable(given: Mapping[str, Any]) -> None:
    """Refuse what Keras's fit hasn't got."""
    shuffle = given["shuffle"]
    refused = {
        "numerics": given["numerics"] != "exact",
        "schedule": given["schedule"] is not None,
        "batch_size": callable(given["batch_size"]),
        "shuffle": isinstance(shuffle, Reshuffle),
    }
    for name in (name for name, it_is in refused.items() if it_is):
        raise ValueError(
            f"`{name}`: check compares with Keras's fit bit by bit, which has nothing alike. Received: {name}={given[name]!r}"
        )


def _compared(model: Any, given: Mapping[str, Any], steps: int, snapshot: Snapshot) -> CheckResult:
    def put_back() -> None:
        snapshot.put_back()
        vars(model).pop("_fitcore_engine", None)  # the trainings make programs of their own

    put_back()
    batches = first_batches(given, steps)
    callbacks = _listed(given["callbacks"])
    source = _source(model, batches.arguments())
    key = key_of(Engine.of_compiled(model), _source(model, given), given)
    snapshot.add_captured(_programs(model, source))
    put_back()

    asked = asked_beside(given)
    trainings: dict[str, dict[str, Any]] = {"plain": {}}
    if asked:
        trainings[f"with {', '.join(name for name in asked)}"] = asked

    def keras_fit(seen: Any = None) -> Left:
        return by_keras(model, batches.arguments(), callbacks, seen)

    def fitcore_fit(beside: Mapping[str, Any]) -> Callable[..., Left]:
        return lambda seen=None: by_fitcore(model, batches.arguments(), callbacks, beside, seen)

    def made(train: Callable[..., Left]) -> Left:
        left = train()
        put_back()
        return left

    expected = made(keras_fit)
    result: dict[str, Any] = {"steps": batches.steps, "trainings": tuple(trainings)} | here()
    again = expected.differences(made(keras_fit))
    if again:
        found = _described(model, keras_fit, keras_fit, again, put_back)
        result |= {"identical": False, "keras_repeats": False, **found, "advice": _ADVICE_KERAS}
    else:
        result |= {"identical": True}
        for name, beside in trainings.items():
            train = fitcore_fit(beside)
            differences = expected.differences(made(train))
            if differences:
                found = _described(model, keras_fit, train, differences, put_back)
                where: Operation | None = None
                if found["first_step"] is not None:
                    where = operation(model, batches.arguments(), beside, found["first_step"])
                    put_back()
                    found |= {} if where is None else {"operation": where.says, "layer": where.layer or found["layer"]}
                advice = _advice(name, found["first_step"])
                result |= {"identical": False, "training": name, **found, "advice": advice}
                break
    checked = CheckResult(**result)
    remember(key, checked)
    return checked


_ADVICE_KERAS = (
    "this is none of fitcore's doing. tf.config.experimental.enable_op_determinism() and keras.utils.set_random_seed(...) make "
    "most models repeat themselves; then check again"
)


def _advice(training: str, step: int | None) -> str:
    switch = "0" if keras_private.onednn_is_on() else "1"
    says = "report this model and these lines to fitcore's authors. Until then train it "
    if training != "plain":
        says += f"without what was asked for here ({training.removeprefix('with ')}), or "
    if step is None:
        says += "with a callback that has an on_train_batch_end, which makes a step per compiled call, or "
    return f"{says}by model.fit of Keras; see whether it differs with TF_ENABLE_ONEDNN_OPTS={switch} too"


def _described(
    model: Any, one: Callable[..., Left], other: Callable[..., Left], differences: list[str], put_back: Callable[[], None]
) -> dict[str, Any]:
    """What of the result says where two trainings differ first; by what they ended with, if no step by itself differs."""
    place = first_step(one, other, put_back)
    names = differences if place is None else place.names
    one(lambda step, state: True)  # a step makes all variables
    named = dict(variables(model))
    layer = owner_of(model, named[names[0]]) if names[0] in named else None
    put_back()
    return {
        "first_step": None if place is None else place.step,
        "difference": None if place is None else place.difference,
        "variable": names[0].partition(" ")[2] or names[0],
        "others": len(names) - 1,
        "layer": layer,
    }


def _listed(callbacks: Any) -> list[Any]:
    return list(getattr(callbacks, "callbacks", None) or keras.tree.flatten(callbacks or []))


def _source(model: Any, given: Mapping[str, Any]) -> Source | None:
    """Where batches come from by these arguments of fit; None for a Python generator, which isn't looked into."""
    if inspect.isgenerator(given["x"]):
        return None
    names = ("x", "y", "sample_weight", "batch_size", "steps_per_epoch", "shuffle", "class_weight")
    data = {name: given[name] for name in names if name in given}
    if given.get("validation_split") and given["validation_data"] is None:
        arrays = tuple(data[name] for name in names[:3])
        data |= zip(names, keras_private.train_validation_split(arrays, given["validation_split"])[0])
    return make_source(**data, strategy=keras_private.strategy_of(model))


def _programs(model: Any, source: Source | None) -> list[Any]:
    """The program that fitcore would train with, traced and not run: it knows variables that nothing else leads to."""
    engine = Engine.of_compiled(model)
    if source is None or engine.run_eagerly or engine.strategy is not None:
        return []
    engine.prepare(Stream(source), engine.default_record, None, None)
    return engine.graphs()
