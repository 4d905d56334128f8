"""Under op determinism TensorFlow allows no clock in the graph: the host bounds the steps of a call by the last one's pace."""

import keras
import numpy as np

import fitcore
from fitcore import keras_private


def test_calls_are_bounded_without_a_clock(monkeypatch):
    monkeypatch.setattr(keras_private, "op_determinism", lambda: True)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    engine = fitcore.Engine.of_compiled(model)
    x = np.zeros((20_000, 4), "float32")
    stream = fitcore.Stream(fitcore.make_source(x, x[:, :1], batch_size=1))
    stream.begin_epoch()
    assert engine.train(stream, seconds=0.01).steps == 1  # nothing is known yet
    ran = [engine.train(stream, seconds=0.01).steps for _ in range(10)]
    assert 1 < max(ran) < 19_000  # some hundreds at this step's few microseconds, never all
    (call,) = engine.train_program()._compiled.values()
    functions = call.graph.as_graph_def().library.function
    ops = {node.op for function in functions for node in function.node_def} | {op.type for op in call.graph.get_operations()}
    assert "While" in ops or "StatelessWhile" in ops
    assert "Timestamp" not in ops
