"""Copies of arrays, and that a fit lets go of its own."""

from __future__ import annotations

import gc
import weakref

import keras
import numpy as np
import pytest

import fitcore
from fitcore.data import memory, sources


def big(dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(0).normal(size=(memory.LEAST // 4, 3)).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "uint8"])
def test_a_copy_has_the_values_and_stays_as_it_is(dtype: str) -> None:
    array = big(dtype)[::2]
    before = array.copy()
    tensor = memory.copied(array)
    array[:] = 0
    np.testing.assert_array_equal(tensor.numpy(), before)
    assert tensor.dtype.name == dtype
    np.testing.assert_array_equal(tensor[1:].numpy(), before[1:])  # TensorFlow's kernels ask for aligned memory


def test_memory_serves_again_once_its_tensor_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_free", [])
    first = memory.copied(big())
    assert memory._free == []
    del first
    (kept,) = memory._free
    second = memory.copied(big())
    assert memory._free == []
    np.testing.assert_array_equal(second.numpy(), big())
    del second
    assert memory._free[0] is kept


def test_little_memory_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_free", [])
    monkeypatch.setattr(memory, "MOST", 2 * big().nbytes)
    tensors = [memory.copied(big()) for _ in range(3)]
    del tensors
    assert len(memory._free) == 1


def test_what_comes_twice_is_copied_once() -> None:
    x, other = big(), big()
    tensors = fitcore.make_source(x, x, batch_size=32).tensors
    assert tensors[0] is tensors[1]
    assert len({id(tensor) for tensor in fitcore.make_source(x, other, batch_size=32).tensors}) == 2


def test_a_fit_lets_go_of_its_data(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    init = sources.ArraySource.__init__

    def noting(self: sources.ArraySource, *args: object) -> None:
        init(self, *args)
        made.append(weakref.ref(self))

    monkeypatch.setattr(sources.ArraySource, "__init__", noting)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    gc.collect()
    gc.disable()
    try:
        fitcore.fit(model, np.ones((8, 3)), np.ones((8, 1)), validation_split=0.5, noise=True, verbose=0)
        assert len(made) == 2
        assert [source() for source in made] == [None, None]
    finally:
        gc.enable()
