"""A large ONNX file taken apart into pieces to parse: one call of the parser holds the interpreter until it is done.

What makes a file large are constants, which parse at the speed of memory, and the attributes of tree ensembles, numbers
one by one, which do not: 17 MB of them take 70 ms. So attributes of operators are parsed one at a time.
"""

from collections.abc import Iterator

# Field numbers of onnx.proto.
_MODEL_GRAPH = 7
_GRAPH_NODE = 1
_NODE_ATTRIBUTE = 5
_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5
_FIXED_SIZES = {_FIXED_64: 8, _FIXED_32: 4}
_MAX_VARINT_BYTES = 10


def take_apart(data: bytes) -> tuple[bytes, list[memoryview]] | None:
    """The file without the operators of its graph, and each of their attributes.

    None where the file is not as expected; the parser then says what is wrong with it. Graphs inside attributes and
    functions stay whole.
    """
    attributes: list[memoryview] = []
    rest: list[bytes | memoryview] = []
    try:
        for number, whole, value in _fields(memoryview(data), _MODEL_GRAPH):
            if number != _MODEL_GRAPH:
                rest.append(whole)
                continue
            graph = _without_nodes(value, attributes)
            # Several are merged by whoever reads them, as several of the file are.
            rest += [b"\x3a", _varint(sum(map(len, graph))), *graph]
    except ValueError:
        return None
    return b"".join(rest), attributes


def _without_nodes(graph: memoryview, attributes: list[memoryview]) -> list[memoryview]:
    kept = []
    for number, whole, value in _fields(graph, _GRAPH_NODE):
        if number == _GRAPH_NODE:
            attributes += [
                attribute for kind, _, attribute in _fields(value, _NODE_ATTRIBUTE) if kind == _NODE_ATTRIBUTE
            ]
        else:
            kept.append(whole)
    return kept


def _fields(message: memoryview, descended: int) -> Iterator[tuple[int, memoryview, memoryview]]:
    """The fields of a message: number, all of it, and its value; `descended` is a message. Raises ValueError."""
    place, end = 0, len(message)
    while place < end:
        begin = place
        tag, place = _read_varint(message, place)
        number, kind = tag >> 3, tag & 7
        if kind == _BYTES:
            size, place = _read_varint(message, place)
        elif kind in _FIXED_SIZES and number != descended:
            size = _FIXED_SIZES[kind]
        elif kind == _VARINT and number != descended:
            after = _read_varint(message, place)[1]
            size = after - place
        else:
            raise ValueError(f"field {number} has wire type {kind}")
        if size > end - place:
            raise ValueError(f"field {number} is cut short")
        yield number, message[begin : place + size], message[place : place + size]
        place += size


def _read_varint(message: memoryview, place: int) -> tuple[int, int]:
    """A number and where it ends. Raises ValueError."""
    value = 0
    for index, byte in enumerate(message[place : place + _MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, place + index + 1
    raise ValueError("a number without an end")


def _varint(value: int) -> bytes:
    written = bytearray()
    while value >= 0x80:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)
