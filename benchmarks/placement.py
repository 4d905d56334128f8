"""What would a step send back and forth between a GPU and the host? Answered without a GPU.

    python -m benchmarks.placement [--workload=mlp] [--case=noise] [--all]

Trains each workload for a few steps in each of these cases, and walks through the programs that were compiled for it, exact
tier, with TensorFlow's own list of kernels, which a wheel built for GPUs has on any machine (benchmarks/placement_walk.py):

    plain      as fit does by default
    partial    the last batch is smaller, so that the batch's size is unknown to the graph
    noise      the gradient noise measured at each step
    records    loss, gradient norm, learning rate and metrics recorded at each step, the rate by a schedule
    rules      a rule that stops in the loop
    growing    a batch size that a rule sets

Listed is, per turn of the loop, what runs on the host and what is copied from the one's memory to the other's. What is accepted
is so for a reason, `ACCEPTED`; anything else is named, and makes the exit status 1. A copy to the host is the dear one: the
host waits for the GPU. `--all` names the accepted too, op by op.

It says where TensorFlow has kernels, not how fast they are: none of this has been run on a GPU.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any
from unittest import mock

import keras
import tensorflow as tf
from absl import app, flags

import fitcore
from benchmarks.placement_walk import Found, in_loop
from benchmarks.workloads import WORKLOADS
from fitcore import keras_private, parts

BATCH = 32
NAMES = tuple(name for name, workload in WORKLOADS.items() if workload.batch == BATCH)  # other sizes: the same programs


@dataclass(frozen=True)
class Accepted:
    """What may concern the host, by patterns of `Found`'s fields, and why."""

    reason: str
    what: str = "*"
    op: str = "*"
    dtype: str = "*"
    at: str = "*"
    name: str = "*"

    def holds(self, found: Found) -> bool:
        return all(fnmatchcase(getattr(found, each), getattr(self, each)) for each in ("what", "op", "dtype", "at", "name"))


COUNTING = "the loop counts on the host, by design: which step is next, whether the clock allows it, where its batch begins"
SHAPES = "a number of the batch's shape, which TensorFlow counts on the host, goes to the device; nobody waits"
DROPOUT = "dropout: TensorFlow derives a key on the host from a state that Keras keeps on the device"
ACCURACY = "Keras's accuracy: its argmax looks at signs by int32, which TensorFlow compares on the host; model.fit does too"
TOKENS = (
    "Keras's embedding: of int32, as tokens are, TensorFlow compares, reshapes and measures on the host, and gathers on the "
    "device; model.fit does too"
)
LSTM = (
    "Keras's recurrent loop decides on the device by two comparisons made on the host; with a GPU Keras takes cuDNN's instead"
)
STOP = "a rule that stops: the host decides by it whether there is a next step"
RESIZE = "a rule that sets the batch size: the host must know it to say where the batch ends, and checks that it isn't 0"
UNKNOWN = (
    "a batch of unknown size: of shapes, in matrix products and gradients of means, TensorFlow counts a part on the device; "
    "model.fit does too"
)
SCHEDULE = "the step's number, of which a schedule makes a learning rate on the device; nobody waits"

ACCEPTED = (
    Accepted(COUNTING, what="asked for", name="while/*"),
    Accepted(SCHEDULE, what="to the device", op="AddV2", dtype="int64", name="while/add*"),
    Accepted(STOP, what="to the host", op="SelectV2", dtype="int64", at="Less.x", name="SelectV2*"),
    Accepted(STOP, what="to the host", op="Merge", dtype="int64", at="Less.x", name="while/cond*"),
    Accepted(RESIZE, what="to the host", op="Merge", dtype="int64", at="AddV2.y", name="while/carried*"),
    Accepted(RESIZE, name="assert_positive/*"),
    Accepted(RESIZE, what="to the host", op="Cast", dtype="int64", at="Assert.data"),
    Accepted(DROPOUT, what="to the host", op="Cast", dtype="int32", at="StatelessRandomGetKeyCounter.seed"),
    Accepted(DROPOUT, what="to the device", op="StatelessRandomGetKeyCounter", dtype="uint64"),
    Accepted(ACCURACY, what="to the host", op="BitwiseAnd", dtype="int32", at="Less.x"),
    Accepted(ACCURACY, what="to the device", op="Less", dtype="bool", at="LogicalAnd.y", name="Less*"),
    Accepted(TOKENS, what="to the host", op="Cast", dtype="int32", at="Less.x"),
    Accepted(TOKENS, what="to the host", op="Cast", dtype="int32", at="Shape.input"),
    Accepted(TOKENS, what="to the host", op="GatherV2", dtype="int32", at="Reshape.tensor"),
    Accepted(TOKENS, what="to the host", op="SelectV2", dtype="int32", name="*embedding*"),
    Accepted(TOKENS, what="to the device", op="AddV2", dtype="int32", at="SelectV2.t", name="*embedding*"),
    Accepted(TOKENS, what="to the device", op="Less", dtype="bool", at="SelectV2.condition", name="*embedding*"),
    Accepted(TOKENS, what="to the device", op="Reshape", dtype="int32", name="*embedding*"),
    Accepted(LSTM, what="to the *", dtype="bool", name="*lstm*"),
    Accepted(UNKNOWN, what="to the host", dtype="int32", at="BroadcastGradientArgs.s?", name="gradient_tape/*"),
    Accepted(UNKNOWN, what="to the host", op="DynamicStitch", dtype="int32", at="Reshape.shape", name="gradient_tape/*"),
    Accepted(UNKNOWN, what="to the host", op="GatherV2", dtype="int32", at="ConcatV2.values", name="*Tensordot*"),
    Accepted(UNKNOWN, what="to the host", op="Prod", dtype="int32", at="Pack.values", name="*Tensordot*"),
    Accepted(SHAPES, what="to the device", op="Equal", dtype="bool", at="All.input"),
    *(
        Accepted(SHAPES, what="to the device", op=op, dtype="int32")
        for op in ("Const", "Shape", "Pack", "Range", "StridedSlice", "FloorDiv")
    ),
)

CASES: Mapping[str, Callable[[], dict[str, Any]]] = {
    "plain": dict,
    "partial": dict,
    "noise": lambda: {"noise": True},
    "records": lambda: {
        "record": ("step/loss", "step/gradient_norm", "step/learning_rate", "loss"),
        "schedule": lambda step: 0.01 / (1.0 + tf.cast(step, tf.float32)),
    },
    "rules": lambda: {"hooks": [fitcore.StopOn(fitcore.NonFinite(), "step/loss")]},
    "growing": lambda: {"hooks": [fitcore.InLoop(fitcore.NormTest(theta=1.0, most=2 * BATCH))]},
}


def graphs(model: keras.Model, x: Any, y: Any, case: str) -> list[tf.Graph]:
    """The programs by which a compiled model is trained on these data in such a case, with no kernels that CPUs alone have.

    The step is left as it was traced: optimized, its ops would be placed on this machine's CPU already.
    """
    with (
        mock.patch.object(parts, "by_onednn", return_value=contextlib.nullcontext()),
        mock.patch.object(keras_private, "optimized", return_value=None),
    ):
        fitcore.fit(model, x, y, batch_size=BATCH, verbose=0, **CASES[case]())
    return fitcore.Engine.of_compiled(model).graphs()


def sorted_out(found: Counter[Found]) -> tuple[Counter[str], Counter[Found]]:
    """(how many are accepted, by the reason; the others)."""
    reasons: Counter[str] = Counter()
    others: Counter[Found] = Counter()
    for each, times in found.items():
        reason = next((accepted.reason for accepted in ACCEPTED if accepted.holds(each)), None)
        if reason is None:
            others[each] += times
        else:
            reasons[reason] += times
    return reasons, others


def in_words(found: Counter[Found]) -> list[str]:
    """A line for each."""
    lines = []
    for each, times in sorted(found.items(), key=lambda item: (item[0].what, item[0].op, item[0].name)):
        wanted = f" for {each.at}" if each.at else ""
        lines.append(f"{each.what:14s} {times}x {each.op} {each.dtype}{wanted}: {each.name}")
    return lines


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    if not tf.sysconfig.get_build_info()["is_cuda_build"]:
        sys.exit(f"This TensorFlow ({tf.__version__}) was built without GPU kernels, so it can't tell; PyPI's for Linux can.")
    tf.config.set_visible_devices([], "GPU")
    print(f"Keras {keras.__version__}, TensorFlow {tf.__version__}; per turn of the loop; not run on a GPU")
    print(f"{'workload':18s}{'case':10s}{'to the host':>12s}{'to the device':>15s}{'on the host':>13s}{'not accepted':>14s}")
    seen: dict[str, set[str]] = {}
    bad = 0
    for name in flags.FLAGS.workload or NAMES:
        for case in flags.FLAGS.case or CASES:
            keras.utils.set_random_seed(0)
            model = WORKLOADS[name].build()
            data = WORKLOADS[name].data(2 * BATCH + (6 if case == "partial" else 0))
            found = sum((in_loop(graph) for graph in graphs(model, *data, case)), Counter[Found]())
            keras.backend.clear_session()
            reasons, others = sorted_out(found)
            kinds: Counter[str] = Counter()
            for each, times in found.items():
                kinds[each.what] += times
            row = f"{kinds['to the host']:12d}{kinds['to the device']:15d}{kinds['on the host']:13d}{others.total():14d}"
            print(f"{name:18s}{case:10s}{row}", flush=True)
            for line in in_words(found if flags.FLAGS.all else others):
                print(f"    {line}")
            for reason in reasons:
                seen.setdefault(reason, set()).add(name)
            bad += others.total()
    print("\nAccepted:")
    for reason, names in seen.items():
        print(f"- {reason} ({'everywhere' if names == {*(flags.FLAGS.workload or NAMES)} else ', '.join(sorted(names))})")
    sys.exit(bad > 0)


if __name__ == "__main__":
    # Defined here, not on import: absl refuses two modules that define the same flag.
    flags.DEFINE_multi_enum("workload", None, NAMES, "Which workload; may be given several times. Default: all.")
    flags.DEFINE_multi_enum("case", None, list(CASES), "Which case; may be given several times. Default: all.")
    flags.DEFINE_bool("all", False, "Name what is accepted too, op by op.")
    app.run(main)
