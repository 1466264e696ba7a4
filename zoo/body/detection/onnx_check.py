"""ONNX files that keep their weights in other files are refused: such a file decides which files are opened."""

import mmap
from collections.abc import Iterator
from pathlib import Path

# of onnx.proto: message -> field -> the message in it
_MESSAGES = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # fields of a tensor


def check_no_external_data(path: Path) -> None:
    """Raise ValueError where a tensor of an .onnx file lies in another file. A damaged file is left to its reader."""
    with open(path, "rb") as file:
        if not file.seek(0, 2):
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            pending = [("model", 0, len(data))]
            while pending:
                kind, start, stop = pending.pop()
                for number, value, content in _fields(data, start, stop):
                    if kind == "tensor" and (number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value)):
                        raise ValueError(f"{path} keeps weights in another file; give one that holds them itself")
                    if content is not None and number in _MESSAGES[kind]:
                        pending.append((_MESSAGES[kind][number], *content))


def _fields(data: mmap.mmap, position: int, stop: int) -> Iterator[tuple[int, int, tuple[int, int] | None]]:
    """(number, value, (start, stop) of a content) of a message's fields, up to the first that is damaged."""
    while position < stop:
        key, position = _varint(data, position, stop)
        value, content = 0, None
        if key & 7 == 0:
            value, position = _varint(data, position, stop)
        elif key & 7 == 2:
            length, position = _varint(data, position, stop)
            content, position = (position, min(position + length, stop)), position + length
        elif key & 7 in (1, 5):
            position += 8 if key & 7 == 1 else 4
        else:
            return
        yield key >> 3, value, content


def _varint(data: mmap.mmap, position: int, stop: int) -> tuple[int, int]:
    """A number of at most ten bytes, and the place behind it; 0 and the end where it is cut off."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= stop:
            return 0, stop
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    return 0, stop
