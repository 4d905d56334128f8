"""Time to a target loss against the number of workers, on paper: seconds per step, times steps needed. Pure NumPy.

Synchronous data parallelism: n workers hold the same weights, each takes B/n examples of a batch of B, an all-reduce sums the
gradients. The model has a term for each thing that is known to take time, and no more:

    seconds per step(n, B) = share(n) [slowest(n) (fixed + per_example B/n) + all_reduce(n)]
    share(n)               = max(1, n/cores), where workers of one core each share `cores` of them; 1 on hosts of their own
    all_reduce(n)          = 2 (n - 1) collectives latency + 2 (n - 1)/n bytes/bandwidth     (rings; Patarasuk and Yuan 2009)
    steps(B)               = S_min (1 + B_noise/B)                   (McCandlish et al. 2018, arXiv:1812.06162, eqs. 2.11, 2.12)
    time to target(n, B)   = seconds per step(n, B) * steps(B)

`slowest(n)` is how much longer than the mean the slowest of n workers takes in a step: all wait for it. Nothing here overlaps
communication with computation, because a step of fitcore doesn't: the gradients are summed at once, when all are there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Compute:
    """What one worker computes in a step.

    Attributes:
      fixed: seconds per step that don't depend on the examples: starting ops, updating weights.
      per_example: seconds per example.
    """

    fixed: float
    per_example: float

    def seconds(self, examples: float) -> float:
        """Of a step of so many examples on this worker."""
        return self.fixed + self.per_example * examples


@dataclass(frozen=True)
class Link:
    """What joins neighbours in the ring.

    Attributes:
      latency: seconds that a message takes, however short.
      bandwidth: bytes per second, in each direction at once.
    """

    latency: float
    bandwidth: float

    def all_reduce(self, workers: int, size: float, collectives: int = 1) -> float:
        """Seconds of ring all-reduces of `size` bytes together, one after the other: each takes n - 1 rounds to sum, and n - 1
        to hand sums on, in each of which a message of 1/n of its bytes goes to the next neighbour."""
        return 2 * (workers - 1) * (collectives * self.latency + size / workers / self.bandwidth)


@dataclass(frozen=True)
class Steps:
    """How many steps a target takes, each batch size with its best learning rate.

    Attributes:
      least: S_min, steps with a batch so large that its gradient has no noise.
      noise: B_noise, the gradient noise scale averaged over the training, in examples. Where the batch is as large, it takes
        twice S_min steps, and twice E_min = S_min B_noise examples.
    """

    least: float
    noise: float

    @classmethod
    def measured_at(cls, batch: float, steps: float, noise: float) -> Steps:
        """From the steps and the noise scale of trainings with one batch size."""
        return cls(steps / (1 + noise / batch), noise)

    def needed(self, batch: float) -> float:
        """S(B) = S_min (1 + B_noise/B)."""
        return self.least * (1 + self.noise / batch)


@dataclass(frozen=True)
class Cluster:
    """Workers, and what joins them.

    Attributes:
      compute: of each worker, alone on its core.
      link: between neighbours.
      gradient_bytes: what a step sums.
      collectives: in how many all-reduces: fitcore's step makes one of the gradients and one of `step/loss`.
      spread: step times of one worker over their mean, [m]; `slowest` draws from them. [1.]: each step takes as long.
      cores: how many all workers share, one worker using one of them; None: each has its own.
    """

    compute: Compute
    link: Link
    gradient_bytes: float
    collectives: int = 1
    spread: Sequence[float] = (1.0,)
    cores: int | None = None

    def share(self, workers: int) -> float:
        """How many workers wait for each core. All of a step takes so many times as long: where cores are shared, they are also
        what sends and receives."""
        return 1.0 if self.cores is None else max(1.0, workers / self.cores)

    def fixed(self, workers: int) -> float:
        """The part of a step's seconds that doesn't depend on the batch, cores being shared."""
        slow = slowest(self.spread, workers)
        sums = self.link.all_reduce(workers, self.gradient_bytes, self.collectives)
        return self.share(workers) * (slow * self.compute.fixed + sums)

    def per_example(self, workers: int) -> float:
        """Seconds per step that each example of the whole batch adds, cores being shared."""
        return self.share(workers) * slowest(self.spread, workers) * self.compute.per_example / workers

    def step(self, workers: int, batch: float) -> float:
        """Seconds of a step whose whole batch is `batch` examples."""
        return self.fixed(workers) + self.per_example(workers) * batch

    def to_target(self, steps: Steps, workers: int, batch: float) -> float:
        """Seconds until the target is reached."""
        return self.step(workers, batch) * steps.needed(batch)

    def best_batch(self, steps: Steps, workers: int, most: float = math.inf) -> float:
        """The batch with the shortest time to target for so many workers, not rounded.

        (f + p B)(1 + N/B) is least at B = sqrt(N f/p). Kept between an example per worker and `most`.
        """
        batch = math.sqrt(steps.noise * self.fixed(workers) / self.per_example(workers))
        return max(float(workers), min(batch, most))

    def best_time(self, steps: Steps, workers: int, most: float = math.inf) -> float:
        """Seconds until the target with the best batch."""
        return self.to_target(steps, workers, self.best_batch(steps, workers, most))

    def efficiency(self, steps: Steps, workers: int, most: float = math.inf) -> float:
        """Worker seconds of one worker over those of so many, each with its best batch: 1 if n take 1/n of the time."""
        return self.best_time(steps, 1, most) / (workers * self.best_time(steps, workers, most))

    def fastest(self, steps: Steps, most_workers: int, most: float = math.inf) -> int:
        """The number of workers past which the target takes longer again, or `most_workers` if there is none up to there."""
        return min(range(1, most_workers + 1), key=lambda n: self.best_time(steps, n, most))

    def pays(self, steps: Steps, least: float, most_workers: int, most: float = math.inf) -> int:
        """The most workers whose efficiency is at least `least`."""
        return max(n for n in range(1, most_workers + 1) if n == 1 or self.efficiency(steps, n, most) >= least)


def slowest(spread: Sequence[float], workers: int) -> float:
    """The expected largest of so many independent draws from `spread`, over the mean of `spread`.

    Exact: the k-th smallest of m values is the largest of n draws with probability (k/m)^n - ((k - 1)/m)^n.
    """
    values = np.sort(np.asarray(spread, np.float64))
    below = (np.arange(len(values) + 1) / len(values)) ** workers
    return float(values @ np.diff(below) / values.mean())


def fit_compute(examples: Sequence[float], seconds: Sequence[float]) -> Compute:
    """The `Compute` nearest to measured steps: least squares of the relative error, no term below zero.

    Raises:
      ValueError: fewer than two different numbers of examples, or lengths that differ.
    """
    fixed, per_example = _nearest([np.ones(len(examples)), np.asarray(examples, np.float64)], seconds, "examples")
    return Compute(fixed, per_example)


def fit_link(workers: int, sizes: Sequence[float], seconds: Sequence[float]) -> Link:
    """The `Link` nearest to measured all-reduces of `sizes` bytes among so many workers, in the same sense.

    Raises:
      ValueError: one worker, fewer than two different sizes, or lengths that differ.
    """
    if workers < 2:
        raise ValueError(f"`workers` must be at least 2: one has nobody to send to. Received: {workers}")
    rounds = 2 * (workers - 1)
    columns = [np.full(len(sizes), float(rounds)), np.asarray(sizes, np.float64) * rounds / workers]
    latency, per_byte = _nearest(columns, seconds, "sizes")
    return Link(latency, 1 / per_byte if per_byte else math.inf)


def _nearest(columns: Sequence[Array], seconds: Sequence[float], name: str) -> tuple[float, float]:
    if len(columns[1]) != len(seconds) or len(set(columns[1].tolist())) < 2:
        received = f"{len(columns[1])} of them, {len(set(columns[1].tolist()))} different, and {len(seconds)} times"
        raise ValueError(f"`{name}` and `seconds` must be as many, of two different {name} at least. Received: {received}")
    table = np.stack(columns, axis=1) / np.asarray(seconds, np.float64)[:, None]
    one = np.ones(len(table))
    both = np.linalg.lstsq(table, one, rcond=None)[0]
    if (both >= 0).all():
        return float(both[0]), float(both[1])
    alone = [table[:, k] @ one / (table[:, k] @ table[:, k]) for k in range(2)]  # one term is zero: which fits better?
    k = int(np.argmin([((alone[k] * table[:, k] - one) ** 2).sum() for k in range(2)]))
    return (float(alone[0]), 0.0) if k == 0 else (0.0, float(alone[1]))


def simulate(cluster: Cluster, workers: int, batch: float, steps: int, seed: int) -> float:
    """Mean seconds of a step, message by message instead of by formula: hosts of their own (`cores` None) only.

    In each step each worker computes for a time drawn from `spread`; then, round by round, it sends to its neighbour when both
    have done what came before. Nobody waits for the slowest but by these messages, and clocks run on from step to step: the
    formula's sum of terms has to come out of that.

    Raises:
      ValueError: for workers that share cores.
    """
    if cluster.cores is not None:
        raise ValueError(f"`cluster` must have a core for each worker (`cores=None`). Received: cores={cluster.cores}")
    random = np.random.default_rng(seed)
    spread = np.asarray(cluster.spread, np.float64) / np.mean(cluster.spread)
    message = cluster.link.latency + cluster.gradient_bytes / cluster.collectives / workers / cluster.link.bandwidth
    clock = np.zeros(workers)  # when each worker has done what came so far
    for _ in range(steps):
        clock = clock + cluster.compute.seconds(batch / workers) * random.choice(spread, workers)
        for _ in range(2 * (workers - 1) * cluster.collectives):
            clock = np.maximum(clock, np.roll(clock, 1)) + message
    return float(clock.max()) / steps
