"""As much of PyTorch as Keras's adapter and fitcore touch, for a machine without it: tensors, generators, a DataLoader.

It draws as PyTorch does: a pass takes a seed for its workers from the loader's generator, and its order from the sampler's, or,
if that has none, from a generator of its own that the global one seeds.
"""

from __future__ import annotations

import pickle
import types
from collections.abc import Iterator
from typing import Any

import numpy as np


class Tensor:
    def __init__(self, array: Any) -> None:
        self._array = np.asarray(array)
        self.shape, self.dtype = self._array.shape, self._array.dtype

    def numpy(self) -> np.ndarray:
        return self._array

    def cpu(self) -> Tensor:
        return self

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.asarray(self._array, dtype)


Tensor.__module__ = "torch"


class Generator:
    def __init__(self) -> None:
        self._random = np.random.RandomState(0)

    def manual_seed(self, seed: int) -> Generator:
        self._random.seed(seed % 2**32)
        return self

    def get_state(self) -> Tensor:
        return Tensor(np.frombuffer(pickle.dumps(self._random.get_state()), np.uint8))

    def set_state(self, state: Tensor) -> None:
        assert state.numpy().dtype == np.uint8
        self._random.set_state(pickle.loads(state.numpy().tobytes()))

    def draw(self) -> int:
        return int(self._random.randint(2**31))

    def permutation(self, n: int) -> np.ndarray:
        return self._random.permutation(n)


class TensorDataset:
    def __init__(self, *arrays: Tensor) -> None:
        self._arrays = [array.numpy() for array in arrays]

    def __len__(self) -> int:
        return len(self._arrays[0])

    def __getitem__(self, i: int) -> tuple[np.ndarray, ...]:
        return tuple(array[i] for array in self._arrays)


class RandomSampler:
    def __init__(self, count: int, generator: Generator | None) -> None:
        self.count, self.generator = count, generator

    def __iter__(self) -> Iterator[int]:
        generator = self.generator or Generator().manual_seed(default_generator.draw())
        yield from (int(i) for i in generator.permutation(self.count))


class DataLoader:
    def __init__(self, dataset: Any, batch_size: int, shuffle: bool, generator: Generator | None = None) -> None:
        self.dataset, self.batch_size, self.generator = dataset, batch_size, generator
        self.sampler: Any = RandomSampler(len(dataset), generator) if shuffle else range(len(dataset))

    def __len__(self) -> int:
        return -(-len(self.dataset) // self.batch_size)

    def __iter__(self) -> Iterator[list[Tensor]]:
        (self.generator or default_generator).draw()
        rows = iter(self.sampler)
        while batch := [self.dataset[i] for _, i in zip(range(self.batch_size), rows)]:
            yield [Tensor(np.stack(column)) for column in zip(*batch)]


DataLoader.__module__ = "torch.utils.data.dataloader"
default_generator = Generator()


def modules() -> dict[str, Any]:
    """What goes into `sys.modules`."""
    torch: Any = types.ModuleType("torch")
    torch.utils = types.ModuleType("torch.utils")
    torch.utils.data = types.ModuleType("torch.utils.data")
    torch.Tensor, torch.Generator, torch.default_generator, torch.from_numpy = Tensor, Generator, default_generator, Tensor
    torch.manual_seed = default_generator.manual_seed
    torch.utils.data.DataLoader, torch.utils.data.TensorDataset = DataLoader, TensorDataset
    return {"torch": torch, "torch.utils": torch.utils, "torch.utils.data": torch.utils.data}
