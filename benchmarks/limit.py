"""How far is a step from what the machine allows?

    python -m benchmarks.limit [--workload=mlp] [--rounds=5] [--device=cpu] [--json=FILE]

The floor of a workload's step is the larger of two times:

    matrices   all its matrix products and convolutions, forward and backward, as they stand in the step that was traced: each
               is timed alone, by TensorFlow's own op on arrays of its own shapes, and counted as often as the step has it
    bytes      what cannot but be moved: the batch's rows, read and written; of each parameter the gradient written, and the
               weight, its gradient and Adam's two moments read and all but the gradient written: 8 numbers; at the rate at
               which TensorFlow adds 1 to an array of as many bytes

Beside it µs per step of both tiers, and how many times the floor that is, medians over rounds in which all are timed in turn.
XLA, in the fast tier, has matrix products of its own: where they are faster than TensorFlow's, it may come below.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf
from absl import app, flags

import fitcore
from benchmarks import about, device
from benchmarks.measuring import in_turn
from benchmarks.placement_walk import needs_of, reachable
from benchmarks.workloads import DEFAULT, WORKLOADS, Workload

SIZES = ("input_sizes", "filter_sizes")  # arguments that say a shape
ATTRIBUTES = (
    "transpose_a", "transpose_b", "adj_x", "adj_y", "grad_x", "grad_y", "equation", "strides", "padding", "data_format",
    "dilations", "explicit_paddings",
)  # fmt: skip
ARGUMENTS = {
    "MatMul": ("a", "b"),
    "BatchMatMulV2": ("x", "y"),
    "Einsum": ("inputs",),
    "Conv2D": ("input", "filter"),
    "Conv2DBackpropInput": ("input_sizes", "filter", "out_backprop"),
    "Conv2DBackpropFilter": ("input", "filter_sizes", "out_backprop"),
}
FOR_SECONDS = 0.02  # how long an op is timed at a time, about
NUMBERS = 8  # moved per parameter


@dataclass(frozen=True)
class Product:
    """A matrix product or convolution of a step.

    Attributes:
      op: its type.
      shapes: of its arguments; of the result in place of an argument that says a shape.
      result: shape of its result.
      attributes: (name, value).
    """

    op: str
    shapes: tuple[tuple[int, ...], ...]
    result: tuple[int, ...]
    attributes: tuple[tuple[str, Any], ...]

    @property
    def flops(self) -> int:
        """Two for each multiplication: sizes of the result times what is summed over."""
        return 2 * math.prod(self.result) * self.summed

    @property
    def summed(self) -> int:
        """Products summed in each number of the result."""
        given = dict(self.attributes)
        a, b = self.shapes[0], self.shapes[1]
        match self.op:
            case "MatMul":
                return a[0] if given["transpose_a"] else a[1]
            case "BatchMatMulV2":
                return a[-2] if given["adj_x"] else a[-1]
            case "Einsum":
                (left, right), out = given["equation"].split("->")[0].split(","), given["equation"].split("->")[1]
                sizes = {**dict(zip(left, a)), **dict(zip(right, b))}
                return math.prod(size for letter, size in sizes.items() if letter not in out)
            case "Conv2D":
                return math.prod(b[:-1])
            case "Conv2DBackpropInput":  # as many in all as forward
                return max(1, math.prod(self.shapes[2]) * math.prod(b[:-1]) // math.prod(self.result))
            case "Conv2DBackpropFilter":
                return math.prod(self.shapes[2][:-1])
        raise ValueError(self.op)

    def call(self) -> Callable[[int], float]:
        """(how often) -> seconds, of this op alone."""
        arguments: dict[str, Any] = {}
        values = [
            tf.constant(shape, tf.int32) if name in SIZES else tf.random.uniform(shape)
            for name, shape in zip(ARGUMENTS[self.op] if self.op != "Einsum" else self.shapes, self.shapes)
        ]
        arguments = {"inputs": values} if self.op == "Einsum" else dict(zip(ARGUMENTS[self.op], values))
        raw = getattr(tf.raw_ops, self.op)
        return repeated(lambda: raw(**arguments, **{name: _given(value) for name, value in self.attributes}))


def _given(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def repeated(make: Callable[[], tf.Tensor]) -> Callable[[int], float]:
    """(how often) -> seconds, of a compiled loop that makes a tensor, one time after the other."""

    def loop(times: tf.Tensor) -> tf.Tensor:
        def body(i: tf.Tensor, last: tf.Tensor) -> Any:
            with tf.control_dependencies([last]):
                return i + 1, tf.reshape(make(), [-1])[0]

        return tf.while_loop(lambda i, _: i < times, body, [tf.constant(0), tf.constant(0.0)], parallel_iterations=1)[1]

    compiled = tf.function(loop, autograph=False)

    def timed(times: int) -> float:
        started = time.perf_counter()
        compiled(tf.constant(times)).numpy()
        return time.perf_counter() - started

    return timed


def seconds_of(call: Callable[[int], float]) -> float:
    """Seconds of one of many."""
    call(2)
    times = max(3, min(5000, int(FOR_SECONDS / max(call(3) / 3, 1e-7))))
    return call(times) / times


def products(graph: Any) -> Counter[Product]:
    """The products of a traced step, which has no loop in it, and how often it makes them.

    Raises:
      ValueError: a shape isn't known to the graph.
    """
    definition = graph.as_graph_def(add_shapes=True)
    functions = {each.signature.name: each for each in definition.library.function}
    found: Counter[Product] = Counter()

    def look(nodes: Any, known: dict[str, Any], wanted: Sequence[str]) -> None:
        run = reachable(needs_of(nodes), wanted)  # a convolution's gradient makes one for its input too, wanted or not
        shapes = known | {node.name: node.attr["_output_shapes"].list.shape for node in nodes}
        for node in (each for each in nodes if each.name in run):
            if node.op in ARGUMENTS:
                found[_product(node, shapes)] += 1
            for attribute in node.attr.values():
                for called in (attribute.func, *attribute.list.func):
                    if called.name in functions:
                        function = functions[called.name]
                        arguments = enumerate(function.signature.input_arg)
                        given = {arg.name: function.arg_attr[i].attr["_output_shapes"].list.shape for i, arg in arguments}
                        look(function.node_def, given, [*function.ret.values(), *function.control_ret.values()])

    look(definition.node, {}, [each.name for each in (*graph.outputs, *graph.control_outputs)])
    return found


def _product(node: Any, shapes: dict[str, Any]) -> Product:
    def shape_of(reference: str) -> tuple[int, ...]:
        name, *place = reference.split(":")
        shape = shapes[name][int(place[-1]) if place else 0]
        if shape.unknown_rank or any(each.size < 0 for each in shape.dim):
            raise ValueError(f"The shape of {reference}, for {node.name}, isn't known.")
        return tuple(each.size for each in shape.dim)

    result = shape_of(node.name)
    inputs = [each for each in node.input if not each.startswith("^")]
    arguments = ARGUMENTS[node.op] if node.op != "Einsum" else inputs
    given = tuple(result if name in SIZES else shape_of(each) for name, each in zip(arguments, inputs))
    attributes = tuple((name, _value(node.attr[name])) for name in ATTRIBUTES if name in node.attr)
    return Product(node.op, given, result, attributes)


def _value(attribute: Any) -> Any:
    match attribute.WhichOneof("value"):
        case "b":
            return attribute.b
        case "s":
            return attribute.s.decode()
        case "list":
            return tuple(attribute.list.i)
    raise ValueError(attribute)


def bytes_moved(parameters: int, row_bytes: int, batch: int) -> int:
    """What a step can't but move."""
    return NUMBERS * 4 * parameters + 2 * row_bytes * batch


def floor(matrices: float, moved: float) -> tuple[float, str]:
    """(the larger of the two times, its name): both could go on at the same time."""
    return max((matrices, "matrices"), (moved, "bytes"))


def step_of(model: keras.Model, x: Any, y: Any, batch: int) -> Any:
    """The traced step by which fit trains; recurrent layers are unrolled: each product is there as often as it is made."""
    for layer in model.layers:
        if hasattr(layer, "unroll"):
            layer.unroll = True
    engine = fitcore.Engine.of_compiled(model)
    stream = fitcore.Stream(fitcore.make_source(x, y, batch_size=batch, shuffle=True))
    engine.prepare(stream, engine.default_record, None, None)
    graph = engine.step_graph(stream, engine.default_record, None)
    assert graph is not None
    return graph


def measure(name: str, workload: Workload, rounds: int) -> dict[str, Any]:
    """Figures of one workload."""
    batch = workload.batch
    x, y = workload.data(workload.steps * batch)
    models = {tier: workload.build() for tier in ("exact", "fast")}

    def fit(tier: str) -> float:
        started = time.perf_counter()
        fitcore.fit(models[tier], x, y, batch_size=batch, verbose=0, numerics=tier)
        return (time.perf_counter() - started) / workload.steps

    found = products(step_of(workload.build(), x, y, batch))
    parameters = sum(math.prod(variable.shape) for variable in models["exact"].trainable_variables)
    moved = bytes_moved(parameters, (x.nbytes + y.nbytes) // len(x), batch)
    array = tf.random.uniform([max(1, moved // 8)])  # read and written, 4 bytes each
    calls = {product: product.call() for product in found}
    one = tf.zeros([1])
    add, nothing = repeated(lambda: array + 1.0), repeated(lambda: one + 1.0)
    for tier in models:
        fit(tier), fit(tier)

    def matrices() -> float:
        idle = seconds_of(nothing)  # the loop's own cost
        return sum(times * max(seconds_of(calls[product]) - idle, 0.0) for product, times in found.items())

    def moving() -> float:
        return max(seconds_of(add) - seconds_of(nothing), 0.0)

    def timed(what: str) -> float:
        return matrices() if what == "matrices" else moving() if what == "bytes" else fit(what)

    seconds = in_turn(["matrices", "bytes", *models], timed, rounds)
    medians = {key: statistics.median(values) for key, values in seconds.items()}
    least, bound = floor(medians["matrices"], medians["bytes"])
    flops = sum(times * product.flops for product, times in found.items())
    return {
        "workload": name,
        "products": found.total(),
        "mflops": flops / 1e6,
        "gflops_per_second": flops / medians["matrices"] / 1e9 if medians["matrices"] else 0.0,
        "megabytes": moved / 1e6,
        "gigabytes_per_second": moved / medians["bytes"] / 1e9 if medians["bytes"] else 0.0,
        **{f"{key}_us": 1e6 * value for key, value in medians.items()},
        "floor_us": 1e6 * least,
        "bound": bound,
        **{f"{tier}_times_floor": medians[tier] / least if least else math.inf for tier in models},
    }


HEAD = (
    "workload",
    "MFLOP",
    "GFLOP/s",
    "MB",
    "GB/s",
    "matrices",
    "bytes",
    "exact",
    "fast",
    "exact/floor",
    "fast/floor",
    "bound by",
)


def cells(row: dict[str, Any]) -> list[str]:
    """A row of the table."""
    numbers = ("mflops", "gflops_per_second", "megabytes", "gigabytes_per_second")
    micros = ("matrices_us", "bytes_us", "exact_us", "fast_us")
    times = [f"{row[f'{tier}_times_floor']:.2f}" for tier in ("exact", "fast")]
    return [row["workload"], *(f"{row[k]:.2f}" for k in numbers), *(f"{row[k]:.1f}" for k in micros), *times, row["bound"]]


def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    where = device.use()
    print(f"{about.line(where)}; µs per step, medians")
    print(f"{HEAD[0]:18s}" + "".join(f"{each:>12s}" for each in HEAD[1:]))
    rows = []
    for name in flags.FLAGS.workload or DEFAULT:
        keras.utils.set_random_seed(1)
        rows.append(row := measure(name, WORKLOADS[name], flags.FLAGS.rounds))
        keras.backend.clear_session()
        first, *others = cells(row)
        print(f"{first:18s}" + "".join(f"{each:>12s}" for each in others), flush=True)
    if flags.FLAGS.json:
        about.write(flags.FLAGS.json, "limit", {"rounds": flags.FLAGS.rounds, "rows": rows}, where)


if __name__ == "__main__":
    device.define()
    flags.DEFINE_multi_enum("workload", None, list(WORKLOADS), "Which workload; several may be given. Default: six small ones.")
    flags.DEFINE_integer("rounds", 5, "Rounds, each timing all.", lower_bound=1)
    flags.DEFINE_string("json", None, "Write the figures to this file.")
    app.run(main)
