"""What watches a step changes no bit of it: proven on TensorFlow's graphs, and by the weights, for each kind of layer.

Under the setting of oneDNN that the tests are run with; `TF_ENABLE_ONEDNN_OPTS=1` forces it on.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L
from tensorflow.python.eager import context

import fitcore
from fitcore import aside

ROWS, BATCH = 22, 4  # the last batch is smaller: then shapes are not known while tracing
RANDOM = np.random.default_rng(0)
FLAT, TIMES, IMAGES, WORDS = (
    RANDOM.normal(size=(ROWS, 6)).astype("float32"),
    RANDOM.normal(size=(ROWS, 6, 6)).astype("float32"),
    RANDOM.normal(size=(ROWS, 8, 8, 4)).astype("float32"),
    RANDOM.integers(0, 10, (ROWS, 6)),
)
ACTIVATIONS = ["relu", "tanh", "sigmoid", "elu", "softplus", "silu", "gelu", "hard_sigmoid", "hard_silu", "selu", "softmax"]
SLOW_ACTIVATIONS = ["relu6", "softsign", "leaky_relu", "mish", "log_sigmoid", "exponential", "celu", "tanh_shrink", "hard_tanh",
                    "hard_shrink", "soft_shrink", "squareplus", "sparse_plus", "log_softmax", "linear"]  # fmt: skip


class Attention(L.Layer):
    """Attends to itself."""

    def __init__(self, attention):
        super().__init__()
        self.attention = attention

    def call(self, x):
        return self.attention(x, x)


OF_TIMES = {
    "Conv1D": lambda: L.Conv1D(4, 3),
    "Conv1D, causal": lambda: L.Conv1D(4, 3, padding="causal", dilation_rate=2, activation="tanh"),
    "SeparableConv1D": lambda: L.SeparableConv1D(4, 3),
    "DepthwiseConv1D": lambda: L.DepthwiseConv1D(3),
    "Conv1DTranspose": lambda: L.Conv1DTranspose(4, 3),
    "LSTM": lambda: L.LSTM(4, return_sequences=True),
    "LSTM, unrolled": lambda: L.LSTM(4, unroll=True),
    "GRU": lambda: L.GRU(4, return_sequences=True),
    "SimpleRNN": lambda: L.SimpleRNN(4),
    "Bidirectional": lambda: L.Bidirectional(L.GRU(4)),
    "RNN": lambda: L.RNN([L.LSTMCell(4), L.GRUCell(3)]),
    "TimeDistributed": lambda: L.TimeDistributed(L.Dense(4, "tanh")),
    "EinsumDense": lambda: L.EinsumDense("abc,cd->abd", output_shape=(6, 4), bias_axes="d", activation="tanh"),
    "EinsumDense, per time": lambda: L.EinsumDense("abc,bcd->abd", output_shape=(6, 4), bias_axes="d"),
    "LayerNormalization": lambda: L.LayerNormalization(),
    "RMSNormalization": lambda: L.RMSNormalization(),
    "GroupNormalization": lambda: L.GroupNormalization(2),
    "MultiHeadAttention": lambda: Attention(L.MultiHeadAttention(2, 3)),
    "GroupQueryAttention": lambda: Attention(L.GroupQueryAttention(3, 4, 2)),
    "SpectralNormalization": lambda: L.SpectralNormalization(L.Dense(4, "tanh")),
}
OF_IMAGES = {
    "Conv2D": lambda: L.Conv2D(4, 3),
    "Conv2D, strides": lambda: L.Conv2D(4, 3, strides=2, padding="same"),
    "Conv2D, dilated": lambda: L.Conv2D(4, 3, dilation_rate=2, padding="same"),
    "Conv2D, groups": lambda: L.Conv2D(4, 3, groups=2),
    "DepthwiseConv2D": lambda: L.DepthwiseConv2D(3),
    "SeparableConv2D": lambda: L.SeparableConv2D(4, 3),
    "Conv2DTranspose": lambda: L.Conv2DTranspose(4, 3, strides=2),
    "BatchNormalization": lambda: L.BatchNormalization(),
    "PReLU": lambda: L.PReLU(shared_axes=[1, 2]),
    "Dense": lambda: L.Dense(4, "sigmoid"),
}


def chain(x: np.ndarray, *kinds: Any) -> Any:
    """(how to make a model of these layers, its data)"""

    def build() -> keras.Model:
        h = inputs = keras.Input(x.shape[1:], dtype=x.dtype)
        for kind in kinds:
            h = kind()(h)
        return keras.Model(inputs, L.Dense(3)(L.Flatten()(h) if len(h.shape) > 2 else h))

    return build, x


def residual() -> keras.Model:
    inputs = keras.Input((6, 6))
    h = L.Dense(6)(inputs)
    h = L.Add()([h, L.Dense(6)(L.Dense(12, "gelu")(L.LayerNormalization()(h)))])
    h = L.Subtract()([h, L.Conv1D(6, 1)(h)])
    gate, value = L.Dense(8, "silu")(h), L.Dense(8)(h)
    return keras.Model(inputs, L.Dense(3)(L.Flatten()(L.Multiply()([gate, value]))))


def shared() -> keras.Model:
    inputs, dense = keras.Input((6,)), L.Dense(6, "tanh", kernel_regularizer="l2")
    return keras.Model(inputs, L.Dense(3, activity_regularizer="l1")(dense(dense(inputs))))


CASES = {
    **{f"Dense({a})": chain(FLAT, lambda a=a: L.Dense(8, a), lambda: L.Dense(8)) for a in ACTIVATIONS},
    **{f"Dense, {k}": chain(TIMES, lambda: L.Dense(6), f) for k, f in OF_TIMES.items()},
    **{f"Conv2D, {k}": chain(IMAGES, lambda: L.Conv2D(4, 3, padding="same"), f) for k, f in OF_IMAGES.items()},
    "words": chain(WORDS, lambda: L.Embedding(10, 4, mask_zero=True), lambda: L.LSTM(4)),
    "residual": (residual, TIMES),
    "shared": (shared, FLAT),
}
SLOW = {
    **{f"Dense({a})": chain(FLAT, lambda a=a: L.Dense(8, a), lambda: L.Dense(8)) for a in SLOW_ACTIVATIONS},
    **{f"Activation({a})": chain(TIMES, lambda: L.Dense(6), lambda a=a: L.Activation(a), lambda: L.Dense(4))
       for a in ACTIVATIONS + SLOW_ACTIVATIONS},
    **{f"Conv2D({a})": chain(IMAGES, lambda a=a: L.Conv2D(4, 3, activation=a), lambda: L.Conv2D(3, 2))
       for a in ACTIVATIONS + SLOW_ACTIVATIONS},
    **{f"{k} and itself, after Conv1D": chain(TIMES, lambda: L.Conv1D(6, 3), f, L.Flatten, lambda: L.Dense(5, "tanh"))
       for k, f in OF_TIMES.items() if not k.startswith("EinsumDense")},  # which want the convolution's input's times
    **{f"BatchNormalization, ReLU, {k}, ReLU": chain(
        IMAGES, lambda: L.Conv2D(4, 3, padding="same"), L.BatchNormalization, L.ReLU, f, L.ReLU) for k, f in OF_IMAGES.items()},
}  # fmt: skip


def trained(case: Any, noise: Any) -> tuple[list[bytes], Counter[str]]:
    """(the weights' bytes, the ops of the training in the graph that TensorFlow ran), of a fresh model."""
    build, x = case
    keras.utils.clear_session()
    keras.utils.set_random_seed(7)
    model = build()
    model.compile(keras.optimizers.SGD(0.01), "mse")
    context.enable_run_metadata()
    try:
        fitcore.fit(model, x, np.resize(FLAT[:, :3], (ROWS, 3)), epochs=2, batch_size=BATCH, verbose=0, noise=noise)
        graphs = context.export_run_metadata().function_graphs
    finally:
        context.disable_run_metadata()
    optimized = [each.post_optimization_graph for each in graphs]
    nodes = [[*g.node, *(node for function in g.library.function for node in function.node_def)] for g in optimized]
    whole = max(nodes, key=len)
    return [w.numpy().tobytes() for w in model.weights], Counter(n.op for n in whole if "aside" not in n.name)


# Those that change no value, and the sums over what was broadcast: over nothing, where TensorFlow can't tell that it wasn't.
MOVES = {"Const", "Shape", "Reshape", "ConcatV2", "ExpandDims", "StridedSlice", "Identity", "Pack", "Cast", "NoOp",
         "Placeholder", "EnsureShape", "BroadcastGradientArgs", "Sum"}  # fmt: skip


def counted(ops: Counter[str]) -> dict[str, int]:
    """Those that compute: how the loop hands on what is recorded, and shapes, are others with noise."""
    return {op: count for op, count in ops.items() if op not in MOVES}


@pytest.mark.parametrize("name", [*CASES, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_noise_leaves_the_bits_and_the_fused_ops(name):
    case = (CASES | SLOW)[name]
    (plain, without), (watched, ops) = trained(case, False), trained(case, True)
    assert counted(ops) == counted(without)
    assert watched == plain


def test_a_tensor_that_the_training_reads_once_gets_no_reader_more():
    """Of a matrix product with a bias and an activation, all that those who watch read is read twice by the training itself."""

    @tf.function(autograph=False)
    def step(x: tf.Tensor, w: tf.Tensor, b: tf.Tensor) -> Any:
        product = tf.matmul(x, w)
        biased = tf.nn.bias_add(product, b)
        out = tf.tanh(biased)
        loss = tf.reduce_sum(out * tf.exp(out))
        with aside.watching():
            seen = [tf.reduce_sum(product), tf.reduce_sum(biased), tf.reduce_sum(out), tf.cast(tf.shape(biased)[0], tf.float32)]
        aside.settle(loss, seen)
        return loss, seen

    x, w, b = tf.random.normal([5, 3]), tf.random.normal([3, 4]), tf.random.normal([4])
    graph = step.get_concrete_function(tf.TensorSpec([None, 3]), tf.TensorSpec([3, 4]), tf.TensorSpec([4])).graph
    ops = {op.type: op for op in graph.get_operations() if "aside" not in op.name}
    for kind, readers in (("MatMul", ["BiasAdd"]), ("BiasAdd", ["Tanh"])):
        assert [op.type for op in ops[kind].outputs[0].consumers()] == readers
    assert sorted(op.type for op in ops["Tanh"].outputs[0].consumers()) == ["EnsureShape", "Exp", "Mul"]
    _, seen = step(x, w, b)
    expected = [x @ w, x @ w + b, tf.tanh(x @ w + b)]
    np.testing.assert_allclose(seen, [*(tf.reduce_sum(each) for each in expected), 5], rtol=1e-5)


def test_what_moves_values_only_is_moved_back():
    """Not computed once more: it is read as the transposed tensor that the training reads twice."""

    @tf.function(autograph=False)
    def step(x: tf.Tensor) -> Any:
        value = tf.exp(x)
        moved = tf.transpose(tf.reshape(value, [-1, 2, 2]), [0, 2, 1])
        loss = tf.reduce_sum(tf.sin(moved) + tf.cos(moved))
        with aside.watching():
            seen = tf.reduce_sum(value * [1.0, 2.0, 3.0, 4.0])
        aside.settle(loss, seen)
        return loss, seen

    graph = step.get_concrete_function(tf.TensorSpec([None, 4])).graph
    assert sum(op.type == "Exp" for op in graph.get_operations()) == 1
    assert sum(op.type == "Transpose" for op in graph.get_operations()) == 2
    x = tf.random.normal([3, 4])
    np.testing.assert_allclose(step(x)[1], tf.reduce_sum(tf.exp(x) * [1.0, 2.0, 3.0, 4.0]), rtol=1e-5)


def test_equal_ops_stay_two():
    """TensorFlow makes one of two equal ops; one of those who watch must not be one with the training's."""
    x = tf.random.normal([5, 3])

    @tf.function(autograph=False)
    def step(x: tf.Tensor) -> Any:
        loss = tf.reduce_sum(tf.exp(x))
        with aside.watching():
            seen = tf.exp(x)
        aside.settle(loss, seen)
        return loss, seen

    context.enable_run_metadata()
    try:
        step(x)
        graphs = [each.post_optimization_graph for each in context.export_run_metadata().function_graphs]
    finally:
        context.disable_run_metadata()
    assert max(sum(node.op == "Exp" for node in graph.node) for graph in graphs) == 2


@pytest.mark.parametrize("record", [["step/gradient_norm"], {"largest": lambda seen: tf.reduce_max(seen.y_pred)}])
def test_so_do_other_records(record):
    def run(**arguments: Any) -> list[bytes]:
        keras.utils.clear_session()
        keras.utils.set_random_seed(7)
        model = keras.Sequential([keras.Input((6,)), L.Dense(8, "tanh"), L.Dense(3, "elu")])
        model.compile(keras.optimizers.SGD(0.01), "mse")
        fitcore.fit(model, FLAT, FLAT[:, :3], epochs=2, batch_size=BATCH, verbose=0, **arguments)
        return [w.numpy().tobytes() for w in model.weights]

    assert run(record=record) == run()


def test_numerics_are_checked_in_the_training_alone():
    model = keras.Sequential([keras.Input((6,)), L.Dense(3)])
    model.compile(keras.optimizers.SGD(0.01), "mse")
    tf.debugging.enable_check_numerics()
    try:
        history = fitcore.fit(model, FLAT, FLAT[:, :3], batch_size=21, verbose=0, noise=True)  # of one row nothing is known
        assert np.isnan(history.noise.trace).tolist() == [False, True]
        broken = np.where(np.arange(ROWS)[:, None] == 3, np.nan, FLAT)
        with pytest.raises(tf.errors.InvalidArgumentError, match="NaN"):
            fitcore.fit(model, broken, FLAT[:, :3], batch_size=21, verbose=0, noise=True)
    finally:
        tf.debugging.disable_check_numerics()
