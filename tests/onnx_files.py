"""ONNX files written by hand, for no library here writes them: of onnx.proto the fields that a small graph needs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

FLOAT, INT64 = 1, 7  # TensorProto.DataType
INT, INTS = 2, 7  # AttributeProto.AttributeType


def _varint(number: int) -> bytes:
    low, rest = number & 127, number >> 7
    return bytes([low | 128]) + _varint(rest) if rest else bytes([low])


def _field(number: int, value: int | str | bytes) -> bytes:
    """One field of a message: a whole number, or the bytes of a text or another message."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    content = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _attribute(name: str, value: int | Sequence[int]) -> bytes:
    if isinstance(value, int):
        return _field(1, name) + _field(3, value) + _field(20, INT)
    return _field(1, name) + b"".join(_field(8, one) for one in value) + _field(20, INTS)


def _tensor(name: str, values: np.ndarray) -> bytes:
    kind = FLOAT if values.dtype == np.float32 else INT64
    return (
        b"".join(_field(1, side) for side in values.shape)
        + _field(2, kind)
        + _field(8, name)
        + _field(9, np.ascontiguousarray(values).tobytes())
    )


def _value(name: str, shape: Sequence[int]) -> bytes:
    sides = b"".join(_field(1, _field(1, side)) for side in shape)
    return _field(1, name) + _field(2, _field(1, _field(1, FLOAT) + _field(2, sides)))


def write_onnx(
    path: Path,
    nodes: Sequence[tuple],
    tensors: Mapping[str, np.ndarray],
    picture: Sequence[int],
    answers: Mapping[str, Sequence[int]],
) -> None:
    """A network with the input 'picture'. nodes: (kind, inputs, output, attributes); tensors: its float32 weights and
    int64 shapes by name; picture: the input's shape; answers: output -> shape."""
    graph = b""
    for kind, inputs, output, attributes in nodes:
        node = b"".join(_field(1, one) for one in inputs) + _field(2, output) + _field(3, output) + _field(4, kind)
        graph += _field(1, node + b"".join(_field(5, _attribute(*one)) for one in attributes.items()))
    graph += _field(2, "small") + b"".join(_field(5, _tensor(*one)) for one in tensors.items())
    graph += _field(11, _value("picture", picture)) + b"".join(_field(12, _value(*one)) for one in answers.items())
    path.write_bytes(_field(1, 8) + _field(7, graph) + _field(8, _field(1, "") + _field(2, 13)))
