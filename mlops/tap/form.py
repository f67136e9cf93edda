"""What the usual records of a version have in common: all but times, ids, figures and entities, packed once."""

import struct
from collections.abc import Sequence

from mlops.tap.record import Tensor, encode_tensors, head

#: `layout.FIXED` with what does not change from record to record taken together, and zeros where nothing is to say.
USUAL = struct.Struct("<Q4sIqq16s6Q8s2x5BxH10sI4x8sII28x64s64s")
ONE_PART = struct.pack("<HH", 0, 1)


class Form:
    """The usual record: an answer to one row by a version whose shapes are fixed, with nothing found.

    `inputs` and `outputs` say datatypes, shapes and sizes; what is in their data does not matter.
    """

    __slots__ = ("generations", "numbers", "payload_bytes", "pieces", "places", "role", "version_and_rows")

    def __init__(
        self,
        *,
        plan_generation: int,
        split_generation: int,
        version: int,
        role: int,
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
    ) -> None:
        self.generations = struct.pack("<QQ", plan_generation, split_generation)
        self.version_and_rows = struct.pack("<II", version, 1)
        self.role = role
        self.numbers = struct.pack("<HHHHxx", len(inputs), len(outputs), 0, 0)
        #: A payload without its entities: heads and padding, and room for the data of tensors at odd places.
        self.pieces = [b""]
        for tensor in (*inputs, *outputs):
            self.pieces[-1] += head(tensor)
            self.pieces += b"", bytes(-len(tensor.data) % 8)
        self.payload_bytes = len(encode_tensors([*inputs, *outputs]))
        self.places = struct.pack("<II", len(encode_tensors(inputs)), self.payload_bytes)
