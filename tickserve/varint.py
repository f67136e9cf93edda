"""Numbers as protobuf writes them, for messages that are put together from parts."""


def varint(number: int) -> bytes:
    """An unsigned number: seven bits a byte, the lowest first."""
    if number < 0x80:
        return bytes((number,))
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)
