"""A fit on a shuffled PyTorch DataLoader can be cut: what its order is drawn from is saved. Without PyTorch, on a stand-in."""

from __future__ import annotations

import importlib.util
import random
import sys
from pathlib import Path
from typing import Any

import fake_torch
import numpy as np
import pytest
from cut_fits import EPOCH, compiled
from cuts import Case, assert_survives
from models import data

import fitcore
from fitcore.data import torch_generators

ROWS, BATCH = 22, 4
REAL = importlib.util.find_spec("torch") is not None


@pytest.fixture(params=["stand-in", pytest.param("real", marks=pytest.mark.skipif(not REAL, reason="needs PyTorch"))])
def torch(request: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    if request.param == "real":
        return pytest.importorskip("torch")
    for name, module in fake_torch.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    return sys.modules["torch"]


def loader(torch: Any, generator: Any = None, dataset: Any = None) -> Any:
    x, y = data(ROWS)
    dataset = dataset or torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    return torch.utils.data.DataLoader(dataset, batch_size=BATCH, shuffle=True, generator=generator)


def seeded(torch: Any) -> Any:
    """The generator that a script makes when it begins."""
    generator = torch.Generator()
    generator.manual_seed(7)
    return generator


@pytest.mark.parametrize("own", [False, True], ids=["global", "own"])
def test_a_shuffled_loader(torch: Any, own: bool, tmp_path: Path) -> None:
    def make(folder: Path) -> dict[str, Any]:
        torch.manual_seed(5)
        return {"model": compiled(), "x": loader(torch, seeded(torch) if own else None), "epochs": 3}

    assert_survives(Case(make, tmp_path, fresh=True), 3, EPOCH, [EPOCH + 1, 2 * EPOCH + 3])


class Noisy:
    """Adds noise to each row as it is read, from three generators: two of its own, and the global one of Python."""

    def __init__(self) -> None:
        self.x, self.y = data(ROWS)
        self.numpy, self.python = np.random.default_rng(3), random.Random(3)

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        noise = self.numpy.normal() + self.python.gauss(0, 1) + random.random()
        return (self.x[i] + 0.1 * noise).astype("float32"), self.y[i]


def test_a_dataset_that_draws_as_it_is_read(torch: Any, tmp_path: Path) -> None:
    def make(folder: Path) -> dict[str, Any]:
        torch.manual_seed(5)
        return {"model": compiled(), "x": loader(torch, dataset=Noisy()), "epochs": 2}

    assert_survives(Case(make, tmp_path, fresh=True), 3, [2, EPOCH + 1])


def test_validation_on_a_shuffled_loader(torch: Any, tmp_path: Path) -> None:
    def make(folder: Path) -> dict[str, Any]:
        torch.manual_seed(5)
        return {"model": compiled(), "x": loader(torch), "validation_data": loader(torch), "epochs": 3}

    assert_survives(Case(make, tmp_path, fresh=True), [3, EPOCH + 1])


def test_it_is_keras_own_order(torch: Any) -> None:
    """What notes the generators draws nothing from them."""
    found = []
    for fit in (lambda model, x: model.fit(x, epochs=2, verbose=0), lambda model, x: fitcore.fit(model, x, epochs=2)):
        model = compiled()
        model.set_weights([np.full(weight.shape, 0.1, "float32") for weight in model.weights])
        torch.manual_seed(5)
        fit(model, loader(torch))
        found.append([weight.tobytes() for weight in model.get_weights()])
    assert found[0] == found[1]


def test_without_pytorch_nothing_is_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert torch_generators.global_state() is None
    assert "torch" not in fitcore.checkpoint.randomness.state()
