"""The tap: records of requests and counts of versions in shared memory, from a server to whoever watches it.

The layout is docs/formats/tap.md. A server writes with `RingWriter`, `Tallier` and `CatalogWriter`, or in Rust; a
reader takes the `boots` of a folder, and of each its `RingReader`s, its `PageReader` and `read_catalog`.
"""

from mlops.tap.catalog import Catalog, CatalogWriter, Split, Version, read_catalog
from mlops.tap.counters import BLOCKS, BlockCounts, Identity, PageOwner, PageReader, Tallier, create_page
from mlops.tap.folder import (
    CATALOG,
    COUNTERS,
    announce_reader,
    boots,
    default_folder,
    has_reader,
    is_alive,
    new_boot,
    open_catalog,
    ring_path,
    rings,
    tidy,
)
from mlops.tap.layout import Flag, State, Why, slot_bytes_for, slot_dtype
from mlops.tap.record import BrokenRule, Finding, Record, Tensor
from mlops.tap.ring import Reading, RingFile, RingReader, RingWriter, Shape, create_ring, records, ring_shape

__all__ = [
    "BLOCKS",
    "CATALOG",
    "COUNTERS",
    "BlockCounts",
    "BrokenRule",
    "Catalog",
    "CatalogWriter",
    "Finding",
    "Flag",
    "Identity",
    "PageOwner",
    "PageReader",
    "Reading",
    "Record",
    "RingFile",
    "RingReader",
    "RingWriter",
    "Shape",
    "Split",
    "State",
    "Tallier",
    "Tensor",
    "Version",
    "Why",
    "announce_reader",
    "boots",
    "create_page",
    "create_ring",
    "default_folder",
    "has_reader",
    "is_alive",
    "new_boot",
    "open_catalog",
    "read_catalog",
    "records",
    "ring_path",
    "ring_shape",
    "rings",
    "slot_bytes_for",
    "slot_dtype",
    "tidy",
]
