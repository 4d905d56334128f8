"""What a step would send between a GPU and the host: the walk finds what was planted, and nothing else in a plain step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from benchmarks.placement import ACCEPTED, CASES, Accepted, graphs, in_words, sorted_out
from benchmarks.placement_walk import Found, gpu_kernel, in_loop

pytestmark = pytest.mark.skipif(not tf.sysconfig.get_build_info()["is_cuda_build"], reason="TensorFlow without GPU kernels")


def loop(body: Callable[[tf.Tensor], tf.Tensor], start: float = 0.0) -> list[tuple[str, str, str]]:
    """(what, op, at) found in a loop over a float32 scalar, counted in int32, which lies on the host."""

    def run(x: tf.Tensor) -> Any:
        return tf.while_loop(lambda i, x: i < 3, lambda i, x: (i + 1, body(x)), [tf.constant(0), x])

    graph = tf.function(run, autograph=False).get_concrete_function(tf.TensorSpec([], tf.float32)).graph
    return sorted((each.what, each.op, each.at) for each in in_loop(graph).elements())


def test_a_loop_on_the_device_has_nothing_to_do_with_the_host() -> None:
    assert loop(lambda x: tf.sin(x) + 2 * tf.cast(3, tf.float32)) == []


def test_an_op_without_a_kernel_is_on_the_host_and_costs_two_copies() -> None:
    def digest(x: tf.Tensor) -> tf.Tensor:
        return tf.strings.to_number(tf.strings.as_string(x))

    assert loop(digest) == [
        ("on the host", "AsString", ""),
        ("on the host", "StringToNumber", ""),
        ("to the device", "StringToNumber", "NextIteration.data"),
        ("to the host", "Merge", "AsString.input"),
    ]


def test_one_that_has_none_for_its_types_too() -> None:
    """A matrix product is on the device, of int32 it is not."""

    def product(kind: Any) -> Callable[[tf.Tensor], tf.Tensor]:
        def body(x: tf.Tensor) -> tf.Tensor:
            matrix = tf.reshape(tf.cast(x, kind), [1, 1])
            return tf.cast(tf.reshape(matrix @ matrix, []), tf.float32)

        return body

    assert loop(product(tf.float64)) == []
    assert ("on the host", "MatMul", "") in loop(product(tf.int32))


def test_a_clock_makes_the_loop_wait_unless_all_of_it_is_on_the_host() -> None:
    def run(on_host: str | None) -> Counter[Found]:
        def more(i: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
            with tf.device(on_host):
                return tf.timestamp() < 1e12

        def trace(x: tf.Tensor) -> Any:
            return tf.while_loop(more, lambda i, x: (i + 1, tf.sin(x)), [tf.constant(0), x])

        return in_loop(tf.function(trace, autograph=False).get_concrete_function(tf.TensorSpec([], tf.float32)).graph)

    copies = [each.what for each in run(None) if "to" in each.what.split()]
    assert sorted(copies) == ["to the device", "to the host"]
    assert {each.what for each in run("/device:CPU:0")} == {"asked for"}


def test_what_is_counted_in_int64_stays_where_it_was_put() -> None:
    def run(on_host: str | None) -> list[tuple[str, str]]:
        def body(i: tf.Tensor, x: tf.Tensor) -> Any:
            with tf.device(on_host):
                begin, i = tf.stack([i]), i + 1
            with tf.device("/device:CPU:0"):
                size = tf.constant([1], tf.int64)
            return i, tf.reshape(tf.slice(table, begin, size), [])

        def trace(x: tf.Tensor) -> Any:
            with tf.device(on_host):
                start = tf.constant(0, tf.int64)
            return tf.while_loop(lambda i, x: x < 3.0, body, [start, x])

        table = tf.zeros([10])
        graph = tf.function(trace, autograph=False).get_concrete_function(tf.TensorSpec([], tf.float32)).graph
        return sorted((each.what, each.at) for each in in_loop(graph) if each.what != "asked for")

    decides = ("to the host", "LoopCond.input")  # x < 3 is known to the device alone
    assert run("/device:CPU:0") == [decides]
    assert run(None) == [decides, ("to the host", "Slice.begin")]


def test_a_condition_known_to_the_device_is_waited_for() -> None:
    found = loop(lambda x: tf.cond(x > 0, lambda: tf.sin(x), lambda: tf.strings.to_number(tf.strings.as_string(x))))
    assert ("to the host", "Greater", "Switch.pred") in found
    assert ("on the host", "AsString", "") in found  # in a branch, in a function of its own


def test_functions_called_are_looked_into() -> None:
    inner = tf.function(lambda x: tf.strings.to_number(tf.strings.as_string(x)), autograph=False)
    assert ("on the host", "AsString", "") in loop(inner)


def test_what_is_outside_the_loop_does_not_count() -> None:
    def run(x: tf.Tensor) -> Any:
        x = tf.strings.to_number(tf.strings.as_string(x))
        return tf.while_loop(lambda i, x: i < 3, lambda i, x: (i + 1, tf.sin(x)), [tf.constant(0), x])

    graph = tf.function(run, autograph=False).get_concrete_function(tf.TensorSpec([], tf.float32)).graph
    assert in_loop(graph) == Counter()


def test_kernels_are_told_by_type() -> None:
    def node(op: str, **types: Any) -> Any:
        given = {name: tf.compat.v1.AttrValue(type=kind.as_datatype_enum) for name, kind in types.items()}
        return tf.compat.v1.NodeDef(op=op, attr=given)

    assert gpu_kernel(node("Less", T=tf.int64)).host_memory_arg == []
    assert gpu_kernel(node("Less", T=tf.int32)).host_memory_arg == ["x", "y", "z"]
    assert gpu_kernel(node("Timestamp")) is None


def dense() -> keras.Model:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, "relu"), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    return model


ROWS = np.random.default_rng(0).normal(size=(64, 3)).astype("float32")


@pytest.mark.parametrize("case", CASES)
def test_a_step_has_nothing_to_do_with_the_host_but_for_named_reasons(case: str) -> None:
    (graph,) = graphs(dense(), ROWS, ROWS[:, :1], case)
    reasons, others = sorted_out(in_loop(graph))
    assert in_words(others) == []
    assert reasons


def test_a_plain_step_copies_nothing_at_all() -> None:
    (graph,) = graphs(dense(), ROWS, ROWS[:, :1], "plain")
    assert {each.what for each in in_loop(graph)} == {"asked for"}


def test_kernels_that_cpus_alone_have_are_left_out() -> None:
    body = [keras.layers.MaxPooling2D(), keras.layers.Flatten(), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((4, 4, 3)), *body])
    model.compile("adam", "mse")
    (graph,) = graphs(model, np.zeros((64, 4, 4, 3), "float32"), ROWS[:, :1], "plain")
    assert in_words(sorted_out(in_loop(graph))[1]) == []


def test_a_layer_that_needs_the_host_is_named() -> None:
    class Digest(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return x + tf.stop_gradient(tf.strings.to_number(tf.strings.as_string(x)))

    model = keras.Sequential([keras.Input((3,)), Digest(), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    (graph,) = graphs(model, ROWS, ROWS[:, :1], "plain")
    _, others = sorted_out(in_loop(graph))
    assert any("on the host" in line and "AsString" in line for line in in_words(others))


def test_no_reason_holds_for_all() -> None:
    """Each names an op, an argument or a place in the program besides the kind."""
    for accepted in ACCEPTED:
        assert (accepted.op, accepted.at, accepted.name) != ("*", "*", "*"), accepted
    assert not Accepted("", op="Less", dtype="int32").holds(Found("to the host", "Less", "bool", "", "x"))
