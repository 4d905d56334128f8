"""Copies of arrays in memory that TensorFlow uses as it is, and that serves the next fit again.

A fit trains on copies of its arrays, as Keras's does: who changes an array meanwhile changes nothing. `tf.convert_to_tensor`
copies twice, first because it must not share the array's memory, and again because NumPy's begins at a place that TensorFlow's
kernels can't use. And memory that is new to the process costs more than the copying: it comes page by page, when it is touched
for the first time. Where many short fits follow each other on the same data, that is a good part of each.
"""

from __future__ import annotations

import itertools
import math
import os
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tensorflow as tf

ALIGNED = 64  # bytes; what TensorFlow's kernels rely on
LEAST, MOST = 1 << 20, 1 << 28  # bytes of an array that is copied so, and of memory that is kept for the next
PART, THREADS = 1 << 23, 4  # bytes that a thread copies at least; one can't use all that memory can give

_free: list[np.ndarray] = []


def copied(array: np.ndarray) -> tf.Tensor:
    """A tensor with the array's values, in memory of its own."""
    if not is_plain(array.dtype) or array.nbytes < LEAST or tf.config.list_logical_devices("GPU"):
        return tf.convert_to_tensor(array)  # a GPU has its own memory
    memory = _memory(array.nbytes + ALIGNED)
    copy = _aligned(memory, array.shape, array.dtype)
    _copy(array, copy)
    if memory.nbytes <= MOST:
        weakref.finalize(copy, _keep, memory).atexit = False
    return tf.experimental.dlpack.from_dlpack(copy.__dlpack__())  # the tensor holds `copy` as long as it lives


def shared(shape: Sequence[int], dtype: np.dtype) -> tuple[np.ndarray, tf.Tensor]:
    """An array of plain numbers, and a tensor on the host whose memory it is: what is put into the one is in the other."""
    array = _aligned(np.empty(math.prod(shape) * dtype.itemsize + ALIGNED, np.uint8), shape, dtype)
    return array, tf.experimental.dlpack.from_dlpack(array.__dlpack__())


def is_plain(dtype: np.dtype) -> bool:
    """Whether these are NumPy's own numbers, in the machine's order of bytes; others can't share memory with a tensor."""
    return dtype.kind in "iuf" and dtype.isbuiltin == 1


def _aligned(memory: np.ndarray, shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """An array of that shape in this memory, which is ALIGNED bytes larger."""
    begin = -memory.ctypes.data % ALIGNED
    return memory[begin : begin + math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)


def _copy(array: np.ndarray, into: np.ndarray) -> None:
    """As `np.copyto`, by several threads where that is worth it."""
    threads = min(THREADS, os.cpu_count() or 1, array.nbytes // PART, len(array))
    if threads < 2:
        np.copyto(into, array)
        return
    ends = [len(array) * i // threads for i in range(threads + 1)]
    with ThreadPoolExecutor(threads - 1) as others:
        copies = [others.submit(np.copyto, into[a:b], array[a:b]) for a, b in itertools.pairwise(ends[1:])]
        np.copyto(into[: ends[1]], array[: ends[1]])
        for each in copies:
            each.result()


def _memory(size: int) -> np.ndarray:
    fitting = [i for i, memory in enumerate(_free) if size <= memory.nbytes <= 2 * size]
    return _free.pop(fitting[0]) if fitting else np.empty(size, np.uint8)


def _keep(memory: np.ndarray) -> None:
    _free.append(memory)
    while sum(each.nbytes for each in _free) > MOST:
        _free.pop(0)
