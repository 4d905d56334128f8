"""Arguments of fit."""

from __future__ import annotations

import numpy as np
from keras import callbacks

from benchmarks.bad_calls.setup import BY_NAME, FOR_NONE, LABELS, TRUTH, Bad, X, Y, classifier, dataset, linear, two_outputs
from fitcore import Hook

# Why fitcore refuses what Keras takes without a word, beside the reasons in setup.py.
NO_EPOCH = "nothing would be trained"
ONE_MORE = "no epoch comes before the first; Keras trains one more than asked for"
UNREAD = "it makes no sense, and Keras doesn't look at it"
TO_THE_END = "Keras trains to the end of the data, and for ever if they have none"
OUTSIDE = "the cut is outside the data: Keras trains or validates on rows that weren't meant, or on none"
NO_NUMBER = "it is no number; `0` says that nothing is split off"
SIGN = "Keras validates as often as with `1`"

CALLS = [
    Bad("an argument that fit doesn't have", lambda by: by.fit(linear(), X, Y, epoch=3)),
    Bad("`x` given twice", lambda by: by.fit(linear(), X, Y, x=X)),
    Bad("`batch_size` given by position", lambda by: by.fit(linear(), X, Y, 4), BY_NAME),
    Bad("`epochs=1.5`", lambda by: by.fit(linear(), X, Y, epochs=1.5)),
    Bad('`epochs="3"`', lambda by: by.fit(linear(), X, Y, epochs="3")),
    Bad("`epochs=None`", lambda by: by.fit(linear(), X, Y, epochs=None)),
    Bad("`epochs=True`", lambda by: by.fit(linear(), X, Y, epochs=True), TRUTH),
    Bad("`epochs=-1`", lambda by: by.fit(linear(), X, Y, epochs=-1), NO_EPOCH),
    Bad('`initial_epoch="1"`', lambda by: by.fit(linear(), X, Y, initial_epoch="1")),
    Bad("`initial_epoch=0.5`", lambda by: by.fit(linear(), X, Y, initial_epoch=0.5)),
    Bad("`initial_epoch=-1`", lambda by: by.fit(linear(), X, Y, initial_epoch=-1), ONE_MORE),
    Bad("`batch_size=0`", lambda by: by.fit(linear(), X, Y, batch_size=0), FOR_NONE),
    Bad("`batch_size=-4`", lambda by: by.fit(linear(), X, Y, batch_size=-4)),
    Bad("`batch_size=2.5`", lambda by: by.fit(linear(), X, Y, batch_size=2.5)),
    Bad('`batch_size="4"`', lambda by: by.fit(linear(), X, Y, batch_size="4")),
    Bad("`batch_size=[4]`", lambda by: by.fit(linear(), X, Y, batch_size=[4])),
    Bad("`batch_size=True`", lambda by: by.fit(linear(), X, Y, batch_size=True), TRUTH),
    Bad("`batch_size` beside a dataset", lambda by: by.fit(linear(), dataset(), batch_size=2)),
    Bad("`batch_size=0` beside a dataset", lambda by: by.fit(linear(), dataset(), batch_size=0), UNREAD),
    Bad("`steps_per_epoch=0`", lambda by: by.fit(linear(), X, Y, steps_per_epoch=0), FOR_NONE),
    Bad("`steps_per_epoch=-1`", lambda by: by.fit(linear(), X, Y, steps_per_epoch=-1)),
    Bad("`steps_per_epoch=-1` beside a dataset", lambda by: by.fit(linear(), dataset(), steps_per_epoch=-1), TO_THE_END),
    Bad("`steps_per_epoch=1.5`", lambda by: by.fit(linear(), X, Y, steps_per_epoch=1.5)),
    Bad('`steps_per_epoch="2"`', lambda by: by.fit(linear(), X, Y, steps_per_epoch="2")),
    Bad("`validation_split=1.0`", lambda by: by.fit(linear(), X, Y, validation_split=1.0)),
    Bad("`validation_split=2.0`", lambda by: by.fit(linear(), X, Y, validation_split=2.0), OUTSIDE),
    Bad("`validation_split=-0.1`", lambda by: by.fit(linear(), X, Y, validation_split=-0.1), OUTSIDE),
    Bad("`validation_split=0.99` of one row", lambda by: by.fit(linear(), X[:1], Y[:1], validation_split=0.99)),
    Bad('`validation_split="half"`', lambda by: by.fit(linear(), X, Y, validation_split="half")),
    Bad("`validation_split=[0.2]`", lambda by: by.fit(linear(), X, Y, validation_split=[0.2])),
    Bad("`validation_split=None`", lambda by: by.fit(linear(), X, Y, validation_split=None), NO_NUMBER),
    Bad("`validation_split=True`", lambda by: by.fit(linear(), X, Y, validation_split=True)),
    Bad("`validation_split=nan`", lambda by: by.fit(linear(), X, Y, validation_split=float("nan"))),
    Bad("`validation_split` of a dataset", lambda by: by.fit(linear(), dataset(), validation_split=0.2)),
    Bad('`validation_freq="every"`', lambda by: by.fit(linear(), X, Y, validation_data=(X, Y), validation_freq="every")),
    Bad("`validation_freq=1.5`", lambda by: by.fit(linear(), X, Y, validation_data=(X, Y), validation_freq=1.5)),
    Bad("`validation_freq=0`", lambda by: by.fit(linear(), X, Y, validation_data=(X, Y), validation_freq=0)),
    Bad("`validation_freq=-1`", lambda by: by.fit(linear(), X, Y, validation_data=(X, Y), validation_freq=-1), SIGN),
    Bad("`validation_freq=[]`", lambda by: by.fit(linear(), X, Y, validation_data=(X, Y), validation_freq=[])),
    Bad(
        "`validation_freq=np.int64(1)`", lambda by: by.fit(linear(), X, Y, validation_data=(X, Y), validation_freq=np.int64(1))
    ),
    Bad("`validation_freq=0` without validation data", lambda by: by.fit(linear(), X, Y, validation_freq=0), UNREAD),
    Bad("`validation_steps=0`", lambda by: by.fit(linear(), X, Y, validation_data=(X, Y), validation_steps=0), FOR_NONE),
    Bad('`validation_steps="2"`', lambda by: by.fit(linear(), X, Y, validation_data=(X, Y), validation_steps="2")),
    Bad(
        "`validation_batch_size=0`",
        lambda by: by.fit(linear(), X, Y, validation_data=(X, Y), validation_batch_size=0),
        FOR_NONE,
    ),
    Bad('`validation_batch_size="2"`', lambda by: by.fit(linear(), X, Y, validation_data=(X, Y), validation_batch_size="2")),
    Bad("`shuffle=[1, 0]`", lambda by: by.fit(linear(), X, Y, shuffle=[1, 0])),
    Bad("`callbacks` holds a class", lambda by: by.fit(linear(), X, Y, callbacks=[callbacks.Callback])),
    Bad("`callbacks` holds a fitcore hook", lambda by: by.fit(linear(), X, Y, callbacks=[Hook()])),
    Bad("`callbacks=[7]`", lambda by: by.fit(linear(), X, Y, callbacks=[7])),
    Bad('`callbacks="history"`', lambda by: by.fit(linear(), X, Y, callbacks="history")),
    Bad("`callbacks` holds a function", lambda by: by.fit(linear(), X, Y, callbacks=[print])),
    Bad(
        "`class_weight` and `sample_weight`",
        lambda by: by.fit(linear(), X, Y, class_weight={0: 1.0}, sample_weight=np.ones(12)),
    ),
    Bad(
        "`class_weight` of targets of three dimensions",
        lambda by: by.fit(linear(), X, np.ones((12, 1, 3)), class_weight={0: 1.0}),
    ),
    Bad("`class_weight` a list", lambda by: by.fit(classifier(), X, LABELS, class_weight=[1.0, 2.0, 3.0])),
    Bad("`class_weight` a number", lambda by: by.fit(classifier(), X, LABELS, class_weight=2.0)),
    Bad("`class_weight` of text", lambda by: by.fit(classifier(), X, LABELS, class_weight={0: "heavy"})),
    Bad("`class_weight` without `y`", lambda by: by.fit(linear(), X, class_weight={0: 2.0})),
    Bad("`class_weight` for two outputs", lambda by: by.fit(two_outputs(), X, {"a": Y, "b": Y}, class_weight={0: 1.0})),
    Bad("`sample_weight` for 7 of 12 rows", lambda by: by.fit(linear(), X, Y, sample_weight=np.ones(7))),
    Bad("`sample_weight` a number", lambda by: by.fit(linear(), X, Y, sample_weight=2.0)),
    Bad("`sample_weight` a list of numbers", lambda by: by.fit(linear(), X, Y, sample_weight=[1.0] * 12)),
    Bad("`sample_weight` of text", lambda by: by.fit(linear(), X, Y, sample_weight=np.array(["a"] * 12))),
    Bad("`sample_weight` of shape (12, 5)", lambda by: by.fit(linear(), X, Y, sample_weight=np.ones((12, 5)))),
    Bad("`sample_weight` a dict for one output", lambda by: by.fit(linear(), X, Y, sample_weight={"a": np.ones(12)})),
    Bad(
        "`sample_weight` for one of two outputs", lambda by: by.fit(two_outputs(), X, {"a": Y, "b": Y}, sample_weight={"a": Y})
    ),
    Bad(
        "one `sample_weight` of shape (12, 2) for two outputs",
        lambda by: by.fit(two_outputs(), X, {"a": Y, "b": Y}, sample_weight=np.ones((12, 2))),
    ),
    Bad("`sample_weight` without `y`", lambda by: by.fit(linear(), X, sample_weight=np.ones(12))),
]
