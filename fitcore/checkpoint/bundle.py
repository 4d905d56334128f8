"""TensorFlow's checkpoint format, written by what writes TensorFlow's records: for small states a third of SaveV2's time.

SaveV2 clears a buffer of 8 MB for each checkpoint. A record is what the format is made of, too: bytes, and behind them their
masked CRC-32C. So both files are files of records (length and its checksum, 12 bytes; the bytes; their checksum, 4 bytes):

    PREFIX.data-00000-of-00001   a record for each array; the index says where its bytes are, and their checksum
    PREFIX.index                 a table of LevelDB's: a record for each block, and a footer that says where they are

tf.train.load_checkpoint reads them, and checks every checksum. Source: tensorflow/core/protobuf/tensor_bundle.proto, and
https://github.com/google/leveldb/blob/main/doc/table_format.md
"""

from __future__ import annotations

import functools
import os
import struct
from collections.abc import Iterable, Mapping

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import tensor_bundle_pb2

LARGE = 1 << 22  # bytes of an array from which on SaveV2 writes: it copies no tensor
_BEFORE, _BEHIND = 12, 4  # bytes of a record before and behind what is in it
_CRC = b"\x35"  # what stands before a BundleEntryProto's last field, crc32c
_MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)

Layout = tuple[tuple[str, str, tuple[int, ...]], ...]  # (name, dtype, shape) of each array


def write(prefix: str, arrays: Mapping[str, np.ndarray | tf.Tensor]) -> None:
    """Write arrays and tensors, by name, into the two files of a checkpoint.

    Raises:
      OSError, tf.errors.OpError: they can't be written.
    """
    small = {name: array for name, array in arrays.items() if isinstance(array, np.ndarray) and array.nbytes < LARGE}
    if len(small) < len(arrays):
        tensors = [tf.convert_to_tensor(array) for array in arrays.values()]
        tf.raw_ops.SaveV2(prefix=prefix, tensor_names=list(arrays), shape_and_slices=[""] * len(arrays), tensors=tensors)
    else:
        _write_records(prefix, small)


def _write_records(prefix: str, arrays: Mapping[str, np.ndarray]) -> None:
    names = sorted(arrays, key=str.encode)  # as a table's keys must be
    data = f"{prefix}.data-00000-of-00001"
    with tf.io.TFRecordWriter(data) as records:
        for name in names:
            records.write(arrays[name].tobytes())
    places, entries = _entries(tuple((name, arrays[name].dtype.name, arrays[name].shape) for name in names))
    file = os.open(data, os.O_RDONLY)
    try:
        checksums = [os.pread(file, _BEHIND, place) for place in places]
    finally:
        os.close(file)
    header = tensor_bundle_pb2.BundleHeaderProto(num_shards=1, version={"producer": 1}).SerializeToString()
    block = _block([(b"", header), *((key, value + _CRC + crc) for (key, value), crc in zip(entries, checksums))])
    last = names[-1].encode() if names else b""
    index = _block([(last, _varint(_BEFORE) + _varint(len(block)))])
    nothing = _block([])
    behind = _BEFORE + len(block) + 1 + _BEHIND + _BEFORE  # where the second block begins; a byte for a block's type
    handles = _varint(behind) + _varint(len(nothing))
    behind += len(nothing) + 1 + _BEHIND + _BEFORE
    handles += _varint(behind) + _varint(len(index))
    with tf.io.TFRecordWriter(f"{prefix}.index") as records:
        for each in (block, nothing, index):
            records.write(each + b"\0")  # the type: not compressed
    with open(f"{prefix}.index", "ab") as table:
        table.write(handles.ljust(40, b"\0") + _MAGIC)


@functools.lru_cache(maxsize=4)
def _entries(layout: Layout) -> tuple[list[int], list[tuple[bytes, bytes]]]:
    """For arrays of such a layout: where each one's checksum is in the data, and (key, value without it) in the index."""
    places, entries, place = [], [], _BEFORE
    for name, dtype, shape in layout:
        kind = tf.as_dtype(dtype)
        size = kind.size * int(np.prod(shape, dtype=np.int64))
        entry = tensor_bundle_pb2.BundleEntryProto(
            dtype=kind.as_datatype_enum, shape=tf.TensorShape(shape).as_proto(), offset=place, size=size
        )
        places.append(place + size)
        entries.append((name.encode(), entry.SerializeToString()))
        place += size + _BEHIND + _BEFORE
    return places, entries


def _block(entries: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A block of a table: keys, none of them shortened, with their values; and one place to search from, its beginning."""
    parts = [b"\0" + _varint(len(key)) + _varint(len(value)) + key + value for key, value in entries]
    return b"".join([*parts, struct.pack("<II", 0, 1)])


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; in all but the last the eighth is set."""
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])
