"""What a step draws from Python's and NumPy's global generators while it is traced.

A layer may draw there in its call: Keras's AugMix chooses its augmentations by `random.choice`. Such a draw is made once for
each trace, and is in the program for good. To train as Keras does, fitcore must draw as often as Keras traces, and what only
watches must not draw from the training's generators. A resumed run must draw once more what its programs drew when they were
traced first.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

State = tuple[Any, Any]  # of Python's generator and of NumPy's, as these give it


def state() -> State:
    """The state of both generators."""
    return random.getstate(), np.random.get_state()


def load_state(of_both: State) -> None:
    """Put such a state back."""
    of_python, of_numpy = of_both
    random.setstate(of_python)
    np.random.set_state(of_numpy)


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """After it the generators are as they were before."""
    before = state()
    try:
        yield
    finally:
        load_state(before)


class Traces:
    """The traces of one compiled step, in their order.

    Attributes:
      began: for each trace the state that it began from, None if it drew nothing.
    """

    def __init__(self) -> None:
        self.began: list[State | None] = []
        self._again: Sequence[State | None] = ()
        self._first: dict[Any, State] = {}  # what the first trace for each kind of data began from

    def draw_again(self, began: Sequence[State | None]) -> None:
        """Let the traces to come draw what those of another process drew.

        Args:
          began: of all traces of that process.
        """
        self._again = began

    @contextlib.contextmanager
    def one_more(self, data: Any) -> Iterator[None]:
        """Around a trace. A further one for the same data, where Keras has only one, draws what the first drew.

        Args:
          data: what the batches are that it is traced for, as Keras tells one trace from another.
        """
        place, before = len(self.began), state()
        again = self._again[place] if place < len(self._again) else self._first.get(data)
        start = before if again is None else again
        if again is not None:
            load_state(again)
        try:
            yield
        finally:
            drew = not _same(start, state())
            if again is not None:
                load_state(before)
        self.began.append(start if drew else None)
        if drew:
            self._first.setdefault(data, start)


def _same(a: State, b: State) -> bool:
    return a[0] == b[0] and all(np.array_equal(one, other) for one, other in zip(a[1], b[1]))
