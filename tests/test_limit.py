"""The arithmetic of what a step can't but do."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from benchmarks.limit import ARGUMENTS, Product, bytes_moved, cells, floor, products, seconds_of, step_of
from benchmarks.workloads import WORKLOADS


def compiled(body: list[layers.Layer], shape: tuple[int, ...]) -> keras.Model:
    model = keras.Sequential([keras.Input(shape), *body])
    model.compile("adam", "mse")
    return model


def found(model: keras.Model, *shape: int) -> dict[str, int]:
    """FLOPs of a step on a batch of 8, by op."""
    x = np.zeros((16, *shape), "float32")
    counts: dict[str, int] = {}
    for product, times in products(step_of(model, x, np.zeros((16, 1), "float32"), 8)).items():
        counts[product.op] = counts.get(product.op, 0) + times * product.flops
    return counts


def test_products_of_dense_layers() -> None:
    """Forward 2nab for each; backward once for the weights, and for the input of all but the first."""
    model = compiled([layers.Dense(5), layers.Dense(1)], (3,))
    assert found(model, 3) == {"MatMul": 2 * 8 * (3 * 5 * 2 + 5 * 1 * 3)}


def test_products_of_convolutions() -> None:
    """Two of 3x3 without padding on 8x8: the first has no gradient for its input, though TensorFlow's graph holds one."""
    model = compiled([layers.Conv2D(2, 3), layers.Conv2D(4, 3), layers.GlobalAveragePooling2D(), layers.Dense(1)], (8, 8, 1))
    first, second = 2 * 8 * 36 * 2 * 9, 2 * 8 * 16 * 4 * 18
    assert found(model, 8, 8, 1) == {
        "Conv2D": first + second,
        "Conv2DBackpropFilter": first + second,
        "Conv2DBackpropInput": second,
        "MatMul": 2 * 8 * 4 * 3,
    }


def test_products_of_a_recurrent_layer_count_at_each_turn() -> None:
    """Five turns of [8, 2] x [2, 12] and [8, 3] x [3, 12]; backward each for its weights, and for the state that came in."""
    model = compiled([layers.LSTM(3), layers.Dense(1)], (5, 2))
    flops = found(model, 5, 2)["MatMul"]
    one = 2 * 8 * 12
    at_least, at_most = 5 * one * (2 * 2 + 3 * 3) - 2 * one * 3, 5 * one * (3 * 2 + 3 * 3) + 2 * 8 * 3 * 3
    assert at_least <= flops - 2 * 8 * 3 * 3 <= at_most


def test_products_of_attention() -> None:
    """Scores and their use: [2, h, t, t] of width w/h each, and forward and backward are three of each."""
    inputs = keras.Input((4, 6))
    attended = layers.MultiHeadAttention(2, 3)(inputs, inputs)
    model = keras.Model(inputs, layers.Dense(1)(layers.Flatten()(attended)))
    model.compile("adam", "mse")
    rows, width, length = 8, 6, 4
    scores = 2 * rows * length * length * width  # all heads
    projections = 4 * 2 * rows * length * width * width
    flops = found(model, 4, 6)
    einsum = flops["Einsum"] + flops.get("BatchMatMulV2", 0)
    assert einsum == 3 * (2 * scores + projections) - 3 * projections // 4  # the data have no gradient


def test_a_product_alone_can_be_timed() -> None:
    graph = step_of(WORKLOADS["cnn"].build(), np.zeros((64, 28, 28, 1), "float32"), np.zeros(64, "int64"), 32)
    for product in products(graph):
        assert product.op in ARGUMENTS
        assert 0 < seconds_of(product.call()) < 1


def test_a_shape_that_is_not_known_is_refused() -> None:
    step = tf.function(lambda a: a @ tf.transpose(a), autograph=False)
    with pytest.raises(ValueError, match="isn't known"):
        products(step.get_concrete_function(tf.TensorSpec([None, 3])).graph)


def test_bytes_and_floor() -> None:
    assert bytes_moved(parameters=100, row_bytes=12, batch=8) == 3200 + 192
    assert floor(2.0, 3.0) == (3.0, "bytes")
    assert floor(4.0, 3.0) == (4.0, "matrices")


def test_flops_by_hand() -> None:
    transposed = (("transpose_a", True), ("transpose_b", False))
    assert Product("MatMul", ((7, 2), (7, 3)), (2, 3), transposed).flops == 2 * 2 * 3 * 7
    assert Product("Einsum", ((2, 3, 4), (4, 5)), (2, 3, 5), (("equation", "abc,cd->abd"),)).flops == 2 * 30 * 4


def test_a_row_of_the_table() -> None:
    row = dict.fromkeys(("mflops", "gflops_per_second", "megabytes", "gigabytes_per_second"), 1.0)
    row |= dict.fromkeys(("matrices_us", "bytes_us", "exact_us", "fast_us"), 2.0)
    said = cells({**row, "workload": "mlp", "bound": "bytes", "exact_times_floor": 3.0, "fast_times_floor": 1.5})
    assert said == ["mlp", *["1.00"] * 4, *["2.0"] * 4, "3.00", "1.50", "bytes"]
