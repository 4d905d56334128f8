"""Worker processes of a PyDataset: one that dies ends the training with an error, where Keras's pool would wait for ever."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any


class Workers:
    """What Keras uses of a `multiprocessing.Pool`, by Python's executor, which notices at once when a worker dies.

    Args:
      count: how many.
      begin: what each does first.
    """

    def __init__(self, count: int, begin: Callable[[], None]) -> None:
        self._executor = ProcessPoolExecutor(count, initializer=_begin, initargs=(begin,))

    def apply_async(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Made:
        with _death_in_words():
            return Made(self._executor.submit(function, *arguments))

    def close(self) -> None:
        self._executor.shutdown(wait=False)


class Made:
    """A batch that a worker makes.

    Args:
      future: it, once it is made.
    """

    def __init__(self, future: Future[Any]) -> None:
        self._future = future

    def get(self) -> Any:
        with _death_in_words():
            return self._future.result()


def _begin(begin: Callable[[], None]) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal: the training decides
    begin()


@contextmanager
def _death_in_words() -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool as error:
        raise RuntimeError(
            "A worker process of a PyDataset (`use_multiprocessing=True`) died while it made a batch. Was it killed, or was "
            "there too little memory?"
        ) from error
