"""Draws a case: a pure function of (seed, index) and of the version of Keras."""

from __future__ import annotations

import dataclasses
import random
import re
import warnings

import keras

from benchmarks.hunt.case import Case, Input, Node, Output
from benchmarks.hunt.choices import HEADS, LOSSES, METRICS, OF_ALL, OPTIMIZERS, SCHEDULES
from benchmarks.hunt.grow import UNFIT, Model, Unfit
from benchmarks.hunt.script import result_shapes


def draw(seed: int, index: int) -> Case:
    """The case of this index."""
    rng = random.Random(f"{seed} {index}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        while True:
            model = Model(rng)
            try:
                inputs, nodes = model.grown()
                return _options(rng, inputs, nodes, model)
            except Unfit:
                continue


def _optimizer(rng: random.Random) -> str:
    name = rng.choice([each for each in OPTIMIZERS if hasattr(keras.optimizers, each)])
    more = [each.lstrip("?") for each in OPTIMIZERS[name] if rng.random() < 0.3]
    more += [each.lstrip("?") for each in OF_ALL if rng.random() < 0.08]
    kept: dict[str, str] = {each.split("=")[0]: each for each in more}  # use_ema once
    if sum(each in kept for each in ("clipnorm", "clipvalue", "global_clipnorm")) > 1:
        kept.pop("clipnorm", None), kept.pop("clipvalue", None)  # Keras allows one
    rate = rng.choice(SCHEDULES) if rng.random() < 0.15 else rng.choice(("0.05", "0.01", "1e-3"))
    made = f"keras.optimizers.{name}({', '.join((rate, *kept.values()))})"
    return f"keras.optimizers.LossScaleOptimizer({made}, dynamic_growth_steps=3)" if rng.random() < 0.04 else made


CALLBACKS = (
    "SeesBatches()",
    "SeesEpochs()",
    "StopsIn('on_train_batch_end', 4)",
    "StopsIn('on_epoch_begin', 2)",
    "StopsIn('on_train_batch_begin', 3)",
    "StopsIn('on_epoch_end', 1)",
    "StopsIn('on_train_begin', 1)",
    "ChangesRate()",
    "DecaysWeights()",
    "KeepsBest()",
    "CompilesInEpoch()",
    "PredictsAtEpochs(checked['x'])",
    "keras.callbacks.EarlyStopping('loss', patience=0, restore_best_weights=True)",
    "keras.callbacks.ReduceLROnPlateau('loss', factor=0.5, patience=0, min_delta=10.0)",
    "keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.5 * rate)",
    "keras.callbacks.TerminateOnNaN()",
    "keras.callbacks.SwapEMAWeights()",
    "keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: None)",
    "keras.callbacks.History()",
)


def _callbacks(rng: random.Random, optimizer: str) -> tuple[str, ...]:
    """Some callbacks, of those that Keras takes with this optimizer."""
    taken = list(CALLBACKS)
    if "schedules" in optimizer:
        taken = [each for each in taken if not re.search("Rate|LROn", each)]
    if "use_ema" not in optimizer or "LossScaleOptimizer" in optimizer:
        taken = [each for each in taken if "EMA" not in each]
    return tuple(rng.sample(taken, rng.choices((0, 1, 2, 3), (10, 4, 2, 1))[0]))


BETWEEN = (
    "nothing",
    "freeze_first",
    "thaw_and_compile",
    "compile_as_before",
    "make_again",
    "other_optimizer",
    "lower_rate",
    "halve_weights",
)


def _changes(rng: random.Random, optimizer: str) -> tuple[str, ...]:
    """What is done before each of one or two fits."""
    drawn = rng.random()
    if drawn < 0.06:
        return "freeze_first", "thaw_and_compile"
    if drawn < 0.25:
        return "nothing", rng.choice([each for each in BETWEEN if each != "lower_rate" or "schedules" not in optimizer])
    return ("nothing",)


def _some(rng: random.Random, chance: float, given: dict[str, tuple[str, ...]]) -> dict[str, str]:
    return {name: rng.choice(values) for name, values in given.items() if rng.random() < chance}


def _options(rng: random.Random, inputs: tuple[Input, ...], nodes: tuple[Node, ...], model: Model) -> Case:
    outputs = []
    used = [each for node in nodes for each in node.takes]
    ends = [i for i in range(len(model.tensors)) if i not in used and i >= len(inputs)]
    for tensor in ends if len(ends) < 4 else ends[-3:]:
        target = rng.choices(tuple(HEADS), (6, 1, 2, 2, 3, 1))[0]
        try:
            result = model.head(tensor, target)
        except UNFIT as error:
            raise Unfit from error
        metrics = tuple(rng.sample(METRICS[target], rng.choice((0, 0, 1, 2))))
        integers = ("int32", "int64") if target.startswith("class") else ("float32", "float32", "float64")
        outputs.append(Output(result, target, rng.choice(LOSSES[target]), rng.choice(integers), metrics))
    used = [each for node in model.nodes for each in node.takes] + [each.tensor for each in outputs]
    if not outputs or any(i not in used for i in range(len(inputs))):
        raise Unfit
    nodes = tuple(model.nodes)
    chain = all(node.takes == (len(inputs) + i - 1,) for i, node in enumerate(nodes)) and len(inputs) == 1
    forms = ("functional", "subclassed", "sequential") if chain and len(outputs) == 1 else ("functional", "subclassed")
    form = rng.choice(forms)
    if form == "subclassed" and any("Normalization(mean" in node.layer for node in nodes):
        form = "functional"  # built while a step is traced, it keeps tensors of that trace: Keras raises
    base = "keras.Model"
    if form != "sequential" and rng.random() < 0.25:
        floats = ("Adversarial",) if all(each.holds == "floats" for each in inputs) else ()
        base = rng.choice(("Tape", "OwnMetrics", "ComputesLoss", "TwoOptimizers", "MovingCopy", *floats))
    if base == "Tape" and len(outputs) > 1:  # Keras's list of metrics has some then that take no targets
        base = "keras.Model"
    if base in ("TwoOptimizers", "MovingCopy", "Adversarial"):  # these update no metrics, and Keras asks for their results
        outputs = [dataclasses.replace(each, metrics=()) for each in outputs]
    batch = rng.choice((3, 4, 4, 8))
    rows = rng.choice((22, 22, 16, batch, 2 * batch, 2 * batch + 1, 5))
    frames = len(inputs) == 1 and len(inputs[0].shape) == 1 and inputs[0].holds != "texts"
    named = form != "sequential" and base == "keras.Model" and rng.random() < 0.15
    frames = frames and not named
    sources = ("dataset", "shuffled", "filtered", "pydataset", "generator", *(("frame",) if frames else ()))
    spoiled = ""
    if inputs[0].holds == "floats" and inputs[0].dtype.startswith("float"):
        spoiled = rng.choices(("", "x0[1] = 0", "x0[2] *= 100", "x0[0] = np.nan"), (20, 2, 2, 1))[0]
    source = "arrays" if rng.random() < 0.55 else rng.choice(sources)
    weights = rng.choices(("", "sample", "class"), (8, 1, 1))[0]
    if weights == "class" and (len(outputs) > 1 or outputs[0].target not in ("class", "class_logits")):
        weights = ""
    fit = {"epochs": rng.choice(("1", "2", "2", "3"))} | _some(
        rng,
        0.12,
        {
            "shuffle": ("False", "'batch'"),
            "steps_per_epoch": ("2", "1"),
            "initial_epoch": ("1",),
            "validation_freq": ("2", "[1]"),
        },
    )
    compiled = {"optimizer": _optimizer(rng)} | _some(
        rng, 0.08, {"steps_per_execution": ("2", "5"), "auto_scale_loss": ("False",)}
    )
    in_memory = source in ("arrays", "frame")
    if not in_memory:
        fit.pop("shuffle", None)
    if len(outputs) > 1 and rng.random() < 0.3:
        compiled["loss_weights"] = repr([0.5] * len(outputs))
    if rng.random() < 0.04:
        compiled[rng.choice(("run_eagerly", "jit_compile"))] = "True"
    recurrent = [i for i, node in enumerate(nodes) if node.kind in ("LSTM", "GRU", "SimpleRNN") and node.again is None]
    stateful = bool(recurrent) and form != "subclassed" and rng.random() < 0.3
    if stateful:  # it wants whole batches, of one size everywhere
        i = rng.choice(recurrent)
        nodes = (*nodes[:i], _stateful(nodes[i]), *nodes[i + 1 :])
        rows = max(rows // batch, 1) * batch
    fast = rng.choice(("fast", "fast graph", "fast xla", "fast graph"))
    noises = ("noise", "noise", "noise in full", "noise split")
    chosen = [rng.choice(noises), "cut", fast, rng.choice(("records", "hooks"))]
    if base not in ("keras.Model", "ComputesLoss"):
        chosen = ["cut", fast, "hooks"]  # a train_step's own loss and gradients can't be seen
    case = Case(
        inputs=inputs,
        nodes=nodes,
        outputs=tuple(outputs),
        form=form,
        base=base,
        compile=compiled,
        source=source,
        rows=rows,
        batch=batch,
        spoiled=spoiled,
        weights=weights,
        fit=fit,
        validation=rng.choice(("", "", "", "data", "split" if in_memory and not stateful else "data")),
        callbacks=_callbacks(rng, compiled["optimizer"]),
        changes=_changes(rng, compiled["optimizer"]),
        policy=rng.choices(("", "mixed_float16", "mixed_bfloat16", "float64"), (30, 1.5, 0.7, 0.7))[0],
        cut=rng.choice((1, 2, 3, 3, 4)) if rows > batch else 1,
        named=named,
        evaluated=rng.random() < 0.4,
        variants=("exact", *sorted(rng.sample(chosen, rng.choice((1, 1, 2))))),
        seed=rng.randrange(1000),
    )  # fmt: skip
    try:
        return settled(case)
    except UNFIT as error:
        raise Unfit from error


def _stateful(node: Node) -> Node:
    """The recurrent layer, keeping its state from batch to batch."""
    return dataclasses.replace(node, layer=f"{node.layer[:-1]}, stateful=True)")


def settled(case: Case) -> Case:
    """The case with the shapes of its outputs as they come out. Raises what Keras raises."""
    shapes = result_shapes(case)
    return dataclasses.replace(
        case, outputs=tuple(dataclasses.replace(each, shape=shape) for each, shape in zip(case.outputs, shapes))
    )
