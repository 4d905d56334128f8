"""Calls of train_on_batch and test_on_batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.bad_calls.setup import (
    LABELS,
    ONE_HOT,
    Bad,
    X,
    Y,
    classifier,
    dataset,
    linear,
    two_inputs,
    two_outputs,
    uncompiled,
)


def both(text: str, call: Callable[[Any], Any]) -> list[Bad]:
    """The same for both; `call` is given the method."""
    return [
        Bad(f"train_on_batch: {text}", lambda by: call(by.train_on_batch)),
        Bad(f"test_on_batch: {text}", lambda by: call(by.test_on_batch)),
    ]


CALLS = [
    *both("not compiled", lambda run: run(uncompiled(), X, Y)),
    *both("compiled without a loss", lambda run: run(linear(loss=None), X, Y)),
    *both("compiled without an optimizer", lambda run: run(linear(optimizer=None), X, Y)),
    *both("an argument that it doesn't have", lambda run: run(linear(), X, Y, epochs=3)),
    *both("no data at all", lambda run: run(linear())),
    *both("`x=None`", lambda run: run(linear(), None, Y)),
    *both("no `y`", lambda run: run(linear(), X)),
    *both("`x` text", lambda run: run(linear(), "digits", Y)),
    *both("`x` a list of lists", lambda run: run(linear(), X.tolist(), Y)),
    *both("`x` a dataset", lambda run: run(linear(), dataset())),
    *both("`x` an array of text", lambda run: run(linear(), X.astype(str), Y)),
    *both("`x` of objects", lambda run: run(linear(), np.array([{}] * 12), Y)),
    *both("`x` of two features of three", lambda run: run(linear(), X[:, :2], Y)),
    *both("`x` of no dimension", lambda run: run(linear(), np.float32(3), Y)),
    *both("`y` for 11 of 12 rows", lambda run: run(linear(), X, Y[:11])),
    *both("`y` an array of text", lambda run: run(linear(), X, np.array(["cat"] * 12))),
    *both("`y` text", lambda run: run(linear(), X, "cat")),
    *both("`y` of three dimensions", lambda run: run(linear(), X, np.ones((12, 3, 2)))),
    *both("labels beyond the classes", lambda run: run(classifier(), X, LABELS + 1)),
    *both("one-hot labels for a sparse loss", lambda run: run(classifier(), X, ONE_HOT)),
    *both("one of two inputs", lambda run: run(two_inputs(), X, Y)),
    *both("`y` for one of two outputs", lambda run: run(two_outputs(), X, {"a": Y})),
    *both("`sample_weight` for 7 of 12 rows", lambda run: run(linear(), X, Y, sample_weight=np.ones(7))),
    *both("`sample_weight` of text", lambda run: run(linear(), X, Y, sample_weight=np.array(["a"] * 12))),
    Bad(
        "train_on_batch: `class_weight` and `sample_weight`",
        lambda by: by.train_on_batch(linear(), X, Y, np.ones(12), {0: 1.0}),
    ),
    Bad("train_on_batch: `class_weight` without `y`", lambda by: by.train_on_batch(linear(), X, class_weight={0: 1.0})),
    Bad(
        "train_on_batch: `class_weight` of targets of three dimensions",
        lambda by: by.train_on_batch(linear(), X, np.ones((12, 1, 3)), class_weight={0: 1.0}),
    ),
    Bad(
        "train_on_batch: `class_weight` for two outputs",
        lambda by: by.train_on_batch(two_outputs(), X, {"a": Y, "b": Y}, class_weight={0: 1.0}),
    ),
    Bad(
        "train_on_batch: `class_weight` a list", lambda by: by.train_on_batch(classifier(), X, LABELS, class_weight=[1.0, 2.0])
    ),
    Bad(
        "test_on_batch: `class_weight`, which it doesn't have",
        lambda by: by.test_on_batch(linear(), X, Y, class_weight={0: 1.0}),
    ),
]
