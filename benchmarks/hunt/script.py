"""The program of a case: the one source that the hunt runs, and prints where it fails."""

from __future__ import annotations

import inspect
import re
from typing import Any

from benchmarks import fast_distance
from benchmarks.hunt import trial
from benchmarks.hunt.case import LAYER, SHAPES, Case, Node
from benchmarks.hunt.pieces import NAMES, PIECES
from benchmarks.parity import comparison
from benchmarks.parity.setup import Case as ParityCase
from benchmarks.parity.setup import Impossible

HEAD = """from __future__ import annotations

import dataclasses
import gc
import os
import random
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

{environment}

import keras
import numpy as np
import tensorflow as tf
from keras import layers

{threads}
import fitcore

SEED, STEP, TIMES = {seed}, {step}, {times}
"""

NEEDED = (  # what a script has of comparison.py and fast_distance.py
    comparison.Outcome,
    comparison.fresh_keras,
    comparison.train,
    comparison.same_bytes,
    comparison._bytes,
    comparison.difference,
    comparison._array_difference,
    fast_distance.nudge,
)


def setting_lines(setting: dict[str, Any]) -> tuple[str, str]:
    """(lines that set the environment, lines that set the numbers of threads) of a setting."""
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", **setting.get("environment", {})}
    threads = setting.get("threads", {})
    return (
        "\n".join(f"os.environ[{name!r}] = {value!r}" for name, value in environment.items()),
        "\n".join(f"tf.config.threading.set_{name}_op_parallelism_threads({count})" for name, count in threads.items()),
    )


def program(case: Case) -> str:
    """Source text that defines `make()`, `arguments()` and `FITS`, with the pieces that it uses."""
    body = "\n\n\n".join((_make(case), _arguments(case), _changes(case)))
    used = [inspect.getsource(each) for name, each in PIECES.items() if re.search(rf"\b{name}\b", body)]
    return "\n\n".join((*used, body))


def namespace(case: Case) -> dict[str, Any]:
    """What `program` defines, made."""
    # Classes are made anew: Keras changes the bases of one that a functional model is made of.
    held = {**NAMES, "__name__": "hunted"}
    exec(compile("from __future__ import annotations\n" + program(case), "<hunted case>", "exec"), held)
    return held


def script(case: Case, setting: dict[str, Any], title: str) -> str:
    """A program that stands alone and shows a failure: it needs keras, numpy and fitcore."""
    environment, threads = setting_lines(setting)
    head = HEAD.format(
        environment=environment, threads=threads, seed=comparison.SEED, step=fast_distance.STEP, times=fast_distance.TIMES
    )
    kept = [inspect.getsource(each) for each in (ParityCase, Impossible, *NEEDED)]
    own = inspect.getsource(trial).split("\n# --- from here on", 1)[1].split("\n", 1)[1]
    ends = f'if __name__ == "__main__":\n    sys.exit(show(globals(), {case.variants!r}))\n'
    return "\n\n".join((f'"""{title}\n"""', head, program(case), "# --- how it is judged ---", *kept, own, ends))


def result_shapes(case: Case) -> list[tuple[int, ...]]:
    """The shapes of the outputs, without the batch axis. Raises what Keras raises where layers don't fit together."""
    held = NAMES | PIECES
    lines = [*_inputs(case), *_layers(case, ""), *_calls(case, "")]
    exec("\n".join(lines), held)
    return [tuple(held[_tensor(case, each.tensor)].shape[1:]) for each in case.outputs]


def _tensor(case: Case, index: int) -> str:
    return f"x{index}" if index < len(case.inputs) else f"h{index - len(case.inputs)}"


def _inputs(case: Case) -> list[str]:
    dtypes = {"floats": "", "tokens": ', dtype="int32"', "texts": ', dtype="string"'}
    batch = f"batch_size={case.batch}, " if "stateful=True" in repr(case.nodes) else ""
    return [
        f"x{i} = keras.Input({each.shape!r}, {batch}name='in{i}'{dtypes[each.holds]})" for i, each in enumerate(case.inputs)
    ]


def _owner(nodes: tuple[Node, ...], i: int) -> int:
    again = nodes[i].again
    return i if again is None else _owner(nodes, again)


def _layers(case: Case, owner: str) -> list[str]:
    text = [(i, re.sub(LAYER, rf"{owner}l\1", node.layer)) for i, node in enumerate(case.nodes) if node.again is None]
    return [f"{owner}l{i} = {made}" for i, made in text]


def _calls(case: Case, owner: str) -> list[str]:
    lines = []
    for i, node in enumerate(case.nodes):
        given = ", ".join(_tensor(case, each) for each in node.takes)
        lines.append(f"h{i} = {owner}l{_owner(case.nodes, i)}({f'[{given}]' if node.how == 'list' else given})")
    return lines


def _several(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"[{', '.join(names)}]"


def _named(case: Case) -> str:
    """Its inputs as a dict."""
    return "{" + ", ".join(f"'in{i}': x{i}" for i in range(len(case.inputs))) + "}"


def _indented(lines: list[str], by: int = 1) -> str:
    return "\n".join("    " * by + line for line in lines)


def _make(case: Case) -> str:
    outputs = _several([_tensor(case, each.tensor) for each in case.outputs])
    start = [f"keras.config.set_dtype_policy({case.policy!r})"] if case.policy else []
    losses = _several([each.loss for each in case.outputs])
    named = {"loss": losses, **case.compile}
    if any(each.metrics for each in case.outputs):
        listed = [f"[{', '.join(each.metrics)}]" for each in case.outputs]
        named["weighted_metrics" if case.weights == "sample" else "metrics"] = _several(listed)
    compiled = [f"model.compile({', '.join(f'{name}={value}' for name, value in named.items())})", "return model"]
    if case.form == "subclassed":
        names = [f"x{i}" for i in range(len(case.inputs))]
        unpacked = [f"{', '.join(names)} = inputs"] if len(names) > 1 else []
        if case.named:
            unpacked = [f"x{i} = inputs['in{i}']" for i in range(len(names))]
        call = [*unpacked, *_calls(case, "self."), f"return {outputs}"]
        own = _indented(["super().__init__()", *_layers(case, "self.")], 2)
        head = f"class Net({case.base}):\n    def __init__(self):\n{own}\n\n"
        head += f"    def call(self, {'inputs' if unpacked else names[0]}):\n{_indented(call, 2)}\n\n\n"
        return f"{head}def make():\n{_indented([*start, 'model = Net()', *compiled])}"
    if case.form == "sequential":
        made = [_inputs(case)[0], *_layers(case, "")]
        order = ", ".join(f"l{_owner(case.nodes, i)}" for i in range(len(case.nodes)))
        made.append(f"model = keras.Sequential([x0, {order}])")
        return f"def make():\n{_indented([*start, *made, *compiled])}"
    inputs = _named(case) if case.named else _several([f"x{i}" for i in range(len(case.inputs))])
    made = [*_inputs(case), *_layers(case, ""), *_calls(case, ""), f"model = {case.base}({inputs}, {outputs})"]
    return f"def make():\n{_indented([*start, *made, *compiled])}"


TARGETS = {
    "number": "rng.normal(size={shape})",
    "positive": "rng.uniform(0.1, 1, size={shape})",
    "binary": "rng.integers(0, 2, size={shape})",
    "one_hot": "np.eye({last})[rng.integers(0, {last}, size={but_last})]",
    "class": "rng.integers(0, {last}, size={but_last})",
}
TARGETS["class_logits"] = TARGETS["class"]


def _arguments(case: Case) -> str:
    lines = [f"rng = np.random.default_rng({case.seed})"]
    for i, each in enumerate(case.inputs):
        drawn = SHAPES[each.holds].format(shape=(case.rows, *each.shape))
        cast = ".astype(object)" if each.holds == "texts" else f".astype({each.dtype!r})"
        lines.append(f"x{i} = {f'({drawn} > 0)' if each.dtype == 'bool' else drawn}{cast}")
    if case.spoiled:
        lines.append(case.spoiled)
    for i, output in enumerate(case.outputs):
        shape = (case.rows, *output.shape)
        drawn = TARGETS[output.target].format(shape=shape, last=shape[-1], but_last=shape[:-1])
        lines.append(f"y{i} = {drawn}.astype({output.dtype!r})")
    listed = case.source == "arrays"
    xs, ys = ([f"{name}{i}" for i in range(count)] for name, count in (("x", len(case.inputs)), ("y", len(case.outputs))))
    given_x, given_y = ((_several(each) if listed or len(each) == 1 else f"({', '.join(each)})") for each in (xs, ys))
    lines += [f"x, y = {_named(case) if case.named else given_x}, {given_y}"]
    parts = "(x, y)"
    if case.weights == "sample":
        count = len(case.outputs)
        lines.append(
            f"w = rng.uniform(size={case.rows})" if count == 1 else f"w = ({f'rng.uniform(size={case.rows}), ' * count})"
        )
        if listed and count > 1:
            lines.append("w = list(w)")
        parts = "(x, y, w)"
    named = {"epochs": "2", "verbose": "0"}
    given = f"{parts}, {case.batch}"
    if case.source == "arrays":
        named |= {"x": "x", "y": "y", "batch_size": str(case.batch)} | ({"sample_weight": "w"} if "w" in parts else {})
    elif case.source == "frame":
        lines.append("import pandas")
        named |= {"x": "pandas.DataFrame(x)", "y": "y", "batch_size": str(case.batch)} | (
            {"sample_weight": "w"} if "w" in parts else {}
        )
    elif case.source in ("dataset", "shuffled", "filtered"):
        named["x"] = f"as_dataset({given}, {7 if case.source == 'shuffled' else 0}, {case.source == 'filtered'})"
    elif case.source == "pydataset":
        named["x"] = f"Batches({given}, {case.rows})"
    else:
        named |= {"x": f"generate({given}, {case.rows})", "steps_per_epoch": "3"}
    if case.weights == "class":
        named["class_weight"] = "{0: 1.0, 1: 0.5, 2: 2.0}"
    if case.validation == "split":
        named["validation_split"] = "0.3"
    elif case.validation == "data":
        named["validation_data"] = parts if listed else f"as_dataset({given}, 0, False)"
    named |= case.fit
    if case.callbacks:
        named["callbacks"] = f"[{', '.join(case.callbacks)}]"
    lines.append("checked = dict(x=x if not isinstance(x, tuple) else list(x), y=y if not isinstance(y, tuple) else list(y))")
    return f"def arguments():\n{_indented(lines)}\n    return dict({', '.join(f'{n}={v}' for n, v in named.items())}), checked"


def _changes(case: Case) -> str:
    return f"FITS = [{', '.join(case.changes)}]\nBATCH, CUT, EVALUATED = {case.batch}, {case.cut}, {case.evaluated}"
