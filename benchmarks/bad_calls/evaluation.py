"""Calls of evaluate."""

from __future__ import annotations

import keras
import numpy as np

from benchmarks.bad_calls.setup import (
    BY_NAME,
    FOR_NONE,
    LABELS,
    Bad,
    Batches,
    Raises,
    Unforeseen,
    X,
    Y,
    batches,
    classifier,
    dataset,
    linear,
    no_batches,
    two_outputs,
    uncompiled,
)

CALLS = [
    Bad("evaluate: an argument that it doesn't have", lambda by: by.evaluate(linear(), X, Y, epochs=3)),
    Bad("evaluate: `batch_size` by position", lambda by: by.evaluate(linear(), X, Y, 4), BY_NAME),
    Bad("evaluate: not compiled", lambda by: by.evaluate(uncompiled(), X, Y)),
    Bad("evaluate: compiled without a loss", lambda by: by.evaluate(linear(loss=None), X, Y)),
    Bad("evaluate: compiled without an optimizer", lambda by: by.evaluate(linear(optimizer=None), X, Y)),
    Bad("evaluate: no data at all", lambda by: by.evaluate(linear())),
    Bad("evaluate: an empty generator", lambda by: by.evaluate(linear(), no_batches())),
    Bad("evaluate: `x` text", lambda by: by.evaluate(linear(), "digits", Y)),
    Bad("evaluate: `x` an array of text", lambda by: by.evaluate(linear(), X.astype(str), Y)),
    Bad("evaluate: `y` for 11 of 12 rows", lambda by: by.evaluate(linear(), X, Y[:11])),
    Bad("evaluate: no `y`", lambda by: by.evaluate(linear(), X)),
    Bad("evaluate: `x` of two features of three", lambda by: by.evaluate(linear(), X[:, :2], Y)),
    Bad("evaluate: `y` for one of two outputs", lambda by: by.evaluate(two_outputs(), X, {"a": Y})),
    Bad("evaluate: labels beyond the classes", lambda by: by.evaluate(classifier(), X, LABELS + 1)),
    Bad("evaluate: `sample_weight` for 7 of 12 rows", lambda by: by.evaluate(linear(), X, Y, sample_weight=np.ones(7))),
    Bad("evaluate: `y` beside a dataset", lambda by: by.evaluate(linear(), dataset(), Y)),
    Bad("evaluate: `sample_weight` beside a PyDataset", lambda by: by.evaluate(linear(), Batches((X, Y)), sample_weight=Y)),
    Bad("evaluate: `batch_size=0`", lambda by: by.evaluate(linear(), X, Y, batch_size=0), FOR_NONE),
    Bad("evaluate: `batch_size=-1`", lambda by: by.evaluate(linear(), X, Y, batch_size=-1)),
    Bad('evaluate: `batch_size="4"`', lambda by: by.evaluate(linear(), X, Y, batch_size="4")),
    Bad("evaluate: `batch_size=2.5`", lambda by: by.evaluate(linear(), X, Y, batch_size=2.5)),
    Bad("evaluate: `steps=0`", lambda by: by.evaluate(linear(), X, Y, steps=0), FOR_NONE),
    Bad("evaluate: `steps=-1`", lambda by: by.evaluate(linear(), X, Y, steps=-1)),
    Bad('evaluate: `steps="2"`', lambda by: by.evaluate(linear(), X, Y, steps="2")),
    Bad("evaluate: `steps=1.5`", lambda by: by.evaluate(linear(), X, Y, steps=1.5)),
    Bad("evaluate: `callbacks=[7]`", lambda by: by.evaluate(linear(), X, Y, callbacks=[7])),
    Bad("evaluate: `callbacks` holds a class", lambda by: by.evaluate(linear(), X, Y, callbacks=[keras.callbacks.Callback])),
    Bad(
        "evaluate: a callback that raises",
        lambda by: by.evaluate(
            linear(), X, Y, batch_size=4, callbacks=[Raises("on_test_batch_end", Unforeseen(7, where="evaluate"))]
        ),
    ),
    Bad(
        "evaluate: a generator that raises", lambda by: by.evaluate(linear(), batches((X, Y), (X, Y), (X, Y), ValueError("no")))
    ),
]
