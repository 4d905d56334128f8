"""The workloads in PyTorch: the same layers, loss, metric and Adam as in `benchmarks.workloads`; eager, or compiled."""

from __future__ import annotations

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


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(100, 32)
        self.attention = nn.MultiheadAttention(32, 2, dropout=0.1, batch_first=True)
        self.norms = nn.ModuleList([nn.LayerNorm(32, 1e-3), nn.LayerNorm(32, 1e-3)])
        self.body = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32))
        self.head = nn.Linear(32, 2)

    def forward(self, x: Any) -> Any:
        h = self.embedding(x)
        h = self.norms[0](h + self.attention(h, h, h, need_weights=False)[0])
        return self.head(self.norms[1](h + self.body(h)).mean(1))


class ChannelsFirst(nn.Module):
    def forward(self, x: Any) -> Any:
        return x.permute(0, 3, 1, 2)


def _convolution(channels: int, filters: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, filters, 3), nn.ReLU(), nn.MaxPool2d(2)]


MODELS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(1, 1),
    "mlp": lambda: nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, 10)),
    "deep": lambda: nn.Sequential(*(part for _ in range(10) for part in (nn.Linear(64, 64), nn.ReLU())), nn.Linear(64, 10)),
    "lstm": lambda: nn.Sequential(Last(), nn.Linear(50, 1)),
    "cnn": lambda: nn.Sequential(
        ChannelsFirst(), *_convolution(1, 16), *_convolution(16, 32), nn.Flatten(), nn.Linear(800, 10)
    ),
    "transformer": Transformer,
}


def epochs(name: str, x: np.ndarray, y: np.ndarray, batch: int, how: str) -> tuple[int, Callable[[], float]]:
    """(parameters, a function that trains one more epoch, shuffled, and returns its mean loss). `how`: "" or "compile"."""
    torch.manual_seed(0)
    model = MODELS[name]().train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, eps=1e-7)
    classes = y.ndim == 1
    inputs, targets = torch.from_numpy(x), torch.from_numpy(y)
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
