"""The workloads in PyTorch: the same layers, loss, metric and Adam as in `benchmarks.workloads`, the same initializers too but
for the LSTM's; eager, or compiled.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn


class Last(nn.Module):
    """An LSTM's last output."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(1, 50, batch_first=True)

    def forward(self, x: Any) -> Any:
        return self.lstm(x)[0][:, -1]


class Block(nn.Module):
    """A transformer's."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, dropout=0.1, batch_first=True)
        self.norms = nn.ModuleList([nn.LayerNorm(width, 1e-3), nn.LayerNorm(width, 1e-3)])
        self.body = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))

    def forward(self, h: Any) -> Any:
        h = self.norms[0](h + self.attention(h, h, h, need_weights=False)[0])
        return self.norms[1](h + self.body(h))


class Mean(nn.Module):
    """Over these axes."""

    def __init__(self, *axes: int) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, x: Any) -> Any:
        return x.mean(self.axes)


def _transformer(words: int, width: int, heads: int, blocks: int) -> nn.Module:
    body = [Block(width, heads) for _ in range(blocks)]
    return nn.Sequential(nn.Embedding(words, width), *body, Mean(1), nn.Linear(width, 2))


def _normalized(channels: int, filters: int, size: int, stride: int) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, filters, size, stride, size // 2, bias=False)
    return [convolution, nn.BatchNorm2d(filters, eps=1e-3, momentum=0.01)]


class Residual(nn.Module):
    """A ResNet's block."""

    def __init__(self, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        inner = [*_normalized(channels, filters, 3, stride), nn.ReLU(), *_normalized(filters, filters, 3, 1)]
        self.inner = nn.Sequential(*inner)
        self.outer = nn.Identity() if stride == 1 else nn.Sequential(*_normalized(channels, filters, 1, stride))

    def forward(self, x: Any) -> Any:
        return torch.relu(self.inner(x) + self.outer(x))


def _resnet() -> nn.Module:
    blocks = [Residual(16, 16, 1), Residual(16, 32, 2), Residual(32, 64, 2)]
    start = [ChannelsFirst(), *_normalized(3, 16, 3, 1), nn.ReLU()]
    return nn.Sequential(*start, *blocks, Mean(2, 3), nn.Linear(64, 10))


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, 10))


def _autoencoder() -> nn.Module:
    sizes = (784, 256, 64, 256, 784)
    linear = [nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
    return nn.Sequential(*(part for each in linear[:-1] for part in (each, nn.ReLU())), linear[-1])


class ChannelsFirst(nn.Module):
    def forward(self, x: Any) -> Any:
        return x.permute(0, 3, 1, 2)


def _convolution(channels: int, filters: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, filters, 3), nn.ReLU(), nn.MaxPool2d(2)]


MODELS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(1, 1),
    "mlp": _mlp,
    "deep": lambda: nn.Sequential(*(part for _ in range(10) for part in (nn.Linear(64, 64), nn.ReLU())), nn.Linear(64, 10)),
    "lstm": lambda: nn.Sequential(Last(), nn.Linear(50, 1)),
    "cnn": lambda: nn.Sequential(
        ChannelsFirst(), *_convolution(1, 16), *_convolution(16, 32), nn.Flatten(), nn.Linear(800, 10)
    ),
    "transformer": lambda: _transformer(100, 32, 2, 1),
    "resnet": _resnet,
    "transformer_large": lambda: _transformer(1000, 256, 4, 2),
    "autoencoder": _autoencoder,
    "embedding": lambda: nn.Sequential(nn.Embedding(100_000, 32), Mean(1), nn.Linear(32, 2)),
    "mlp_1": _mlp,
    "mlp_1024": _mlp,
}


def _as_keras(module: nn.Module) -> None:
    """Start from Keras's default distributions, where a loss of the first epoch depends on them."""
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.uniform_(module.weight, -0.05, 0.05)


def epochs(name: str, x: np.ndarray, y: np.ndarray, batch: int, how: str, on: str) -> tuple[int, Callable[[], float]]:
    """(parameters, a function that trains one more epoch, shuffled, and returns its mean loss).

    Args:
      name: the workload. x, y: its data. batch: rows in a step. how: "" or "compile". on: "cpu" or "gpu".
    """
    torch.manual_seed(0)
    torch.set_default_device("cuda" if on == "gpu" else "cpu")
    model = MODELS[name]().apply(_as_keras).train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, eps=1e-7)
    classes = y.ndim == 1
    inputs, targets = (
        torch.as_tensor(x, device=torch.get_default_device()),
        torch.as_tensor(y, device=torch.get_default_device()),
    )
    criterion = nn.CrossEntropyLoss() if classes else nn.MSELoss()
    called: Any = torch.compile(model) if how == "compile" else model

    def epoch() -> float:
        total, right = torch.zeros(()), torch.zeros(())
        for rows in torch.randperm(len(inputs)).split(batch):
            out = called(inputs[rows])
            loss = criterion(out, targets[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += loss.detach()
            if classes:
                right += (out.detach().argmax(1) == targets[rows]).sum()
        return float(total) / (len(inputs) // batch)

    return sum(each.numel() for each in model.parameters()), epoch
