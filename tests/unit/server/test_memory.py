"""How much memory a version should take: by what others of its model turned out to."""

import pytest

from server.models.memory import expected_resident_bytes

MB = 1 << 20


@pytest.mark.parametrize(
    ("size", "known", "expected"),
    [
        (17 * MB, [], 204 * MB),
        (20 * MB, [(10 * MB, 100 * MB)], 200 * MB),
        (20 * MB, [(10 * MB, 100 * MB), (10 * MB, 50 * MB)], 200 * MB),
        # Mostly what the machine did meanwhile; it says nothing of a file that is a thousand times larger.
        (4 * MB, [(168, 8 * MB)], 32 * MB),
        (168, [(168, 8 * MB)], 8 * MB),
        # Loaded into memory that another one had given back.
        (4 * MB, [(10 * MB, 0)], 4 * MB),
    ],
)
def test_expected_by_the_size_of_the_file(size: int, known: list[tuple[int, int]], expected: int) -> None:
    assert expected_resident_bytes(size, known) == expected
