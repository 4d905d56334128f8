"""The peers' models are the workloads' models."""

from __future__ import annotations

import math

import keras
import pytest

from benchmarks.workloads import DEFAULT, WORKLOADS


@pytest.fixture(scope="module")
def parameters() -> dict[str, int]:
    """Numbers that are trained, by workload."""
    counts = {}
    for name, workload in WORKLOADS.items():
        variables = workload.build().trainable_variables
        counts[name] = sum(math.prod(variable.shape) for variable in variables)
        keras.backend.clear_session()
    return counts


def test_a_workload_is_compiled_and_takes_its_data() -> None:
    for name, workload in WORKLOADS.items():
        model, (x, y) = workload.build(), workload.data(3)
        assert model.compiled, name
        assert isinstance(model.optimizer, keras.optimizers.Adam)
        assert model.input_shape[1:] == x.shape[1:], name
        assert len(x) == len(y) == 3
        keras.backend.clear_session()
    assert set(DEFAULT) < set(WORKLOADS)
    assert {workload.batch for workload in WORKLOADS.values()} == {1, 32, 1024}


def test_in_pytorch(parameters: dict[str, int]) -> None:
    pytest.importorskip("torch")
    from benchmarks.peers_torch import MODELS

    counts = {name: sum(each.numel() for each in MODELS[name]().parameters()) for name in WORKLOADS}
    assert counts == parameters | {"lstm": parameters["lstm"] + 200}  # PyTorch's has a second bias vector


def test_in_jax(parameters: dict[str, int]) -> None:
    jax = pytest.importorskip("jax")
    from benchmarks.peers_jax import MODELS

    keys = jax.random.split(jax.random.key(0), 20)
    shapes = {name: jax.eval_shape(lambda keys, name=name: MODELS[name](keys)[0], keys) for name in WORKLOADS}
    counts = {name: sum(each.size for each in jax.tree.leaves(shapes[name])) for name in WORKLOADS}
    assert counts == parameters
