"""
One numeric matrix of a Matlab file (level 5: `save -v6` and `-v7`; HDF5: `-v7.3`), read without trust in the file.

SciPy's `loadmat` ends the process with a segmentation fault on damaged files (seen with 1.17.1), and knows no HDF5.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np

from ....errors import DataError

MATRIX, COMPRESSED = 14, 15
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""Types of stored numbers, by the file format's codes; Matlab stores doubles that are whole in fewer bytes."""

NUMERIC_CLASSES = range(6, 16)
COMPLEX = 0x0800
HDF5, VERSION_73 = b"\x89HDF\r\n\x1a\n", 0x0200
LARGEST = 1 << 28
"""Bytes that a variable may have when decompressed."""


def read_matrix(content: bytes, name: str) -> np.ndarray:
    """
    The variable of that name, `[H, W]`, in the type in which it is stored.

    Args:
        content (`bytes`): of the whole file.
        name (`str`): of the variable; others are passed over.

    Raises:
        [`DataError`]: damaged, another format, no such variable, or one that is no real, full
            matrix of two dimensions.
    """
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    # Both kinds of files say in which order their bytes are; only the version before that tells them apart.
    if content.startswith(HDF5) or (order and struct.unpack_from(f"{order}H", content, 124) == (VERSION_73,)):
        return _read_hdf5(content, name)
    if order is None:
        raise DataError("no Matlab file, neither of level 5 nor of version 7.3")
    names = []
    for kind, data in _elements(content[128:], order):
        if kind == COMPRESSED:
            kind, data = next(_elements(_decompressed(data), order), (0, b""))
        if kind == MATRIX:
            parts = [part for _, part in zip(range(4), _elements(data, order), strict=False)]
            if len(parts) == 4 and parts[2][1] == name.encode():
                return _matrix(parts, order)
            names += [parts[2][1].decode("ascii", "replace")] if len(parts) > 2 else []
    raise DataError(_lacks(name, names))


def _read_hdf5(content: bytes, name: str) -> np.ndarray:
    """The variable of a file of version 7.3, which stores columns first; nothing outside the file is followed."""
    import h5py  # which few runs need

    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            names = [key for key in file if not key.startswith("#")]
            if name not in names:
                raise DataError(_lacks(name, names))
            found = file[name] if isinstance(file.get(name, getlink=True), h5py.HardLink) else None
            if not isinstance(found, h5py.Dataset) or found.ndim != 2 or found.dtype.kind not in "biuf":
                raise DataError("expected a full matrix of real numbers in two dimensions")
            if found.external or found.is_virtual or found.size * found.dtype.itemsize > LARGEST:
                raise DataError(f"{name} lies in other files, or has more than {LARGEST} bytes")
            return np.ascontiguousarray(found[()].T)
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"damaged: {error}") from None


def _lacks(name: str, names: list[str]) -> str:
    return f"holds no matrix {name}; it has {', '.join(names[:10]) or 'none'}"


def _elements(content: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Type and bytes of each element; those of up to 4 bytes share 8 bytes with their head."""
    at = 0
    while at + 8 <= len(content):
        kind, size = struct.unpack_from(f"{order}II", content, at)
        if kind >> 16:
            kind, size, start, end = kind & 0xFFFF, kind >> 16, at + 4, at + 8
        else:
            start, end = at + 8, at + 8 + size
        if size > end - start or end > len(content):
            raise DataError("damaged: an element is longer than its place")
        yield kind, content[start : start + size]
        at = end if kind == COMPRESSED else end + -end % 8


def _decompressed(data: bytes) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        content = unpacker.decompress(data, LARGEST)
    except zlib.error as error:
        raise DataError(f"damaged: {error}") from None
    if not unpacker.eof:
        raise DataError(f"damaged: compressed data without an end within {LARGEST} bytes")
    return content


def _matrix(parts: list[tuple[int, bytes]], order: str) -> np.ndarray:
    (_, head), (_, sizes), _, (kind, data) = parts
    flags = struct.unpack_from(f"{order}I", head)[0] if len(head) >= 4 else 0
    if flags & 0xFF not in NUMERIC_CLASSES or flags & COMPLEX or kind not in NUMBERS or len(sizes) != 8:
        raise DataError("expected a full matrix of real numbers in two dimensions")
    shape = struct.unpack(f"{order}ii", sizes)
    number = np.dtype(order + NUMBERS[kind])
    if min(shape) < 1 or shape[0] * shape[1] * number.itemsize != len(data):
        raise DataError(f"damaged: {len(data)} bytes for a matrix of {shape[0]} x {shape[1]}")
    return np.frombuffer(data, number).reshape(shape, order="F").astype(number.newbyteorder("="))
