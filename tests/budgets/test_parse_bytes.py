from __future__ import annotations

import pytest

from lavakv import BudgetError
from lavakv.budgets.spec import BudgetSpec, parse_bytes
from tests.errors import assert_all_parts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (1, 1),
        (2**70, 2**70),
        ("17", 17),
        ("17B", 17),
        ("2kB", 2000),
        ("2KiB", 2048),
        ("512MiB", 512 * 2**20),
        ("512 mib", 512 * 2**20),
        ("2G", 2 * 10**9),
        ("2Gi", 2 * 2**30),
        (" 1.5 GiB ", 3 * 2**29),
        ("0.3KB", 300),
        ("9007199254740993", 2**53 + 1),  # a float would round it
    ],
)
def test_bytes_are_read(text: int | str, expected: int) -> None:
    assert parse_bytes(text) == expected
    assert BudgetSpec(max_bytes=text).max_bytes == expected


BAD = [
    0, -1, 1.5, True, False, [1], "", " ", "0", "0GiB", "0.4B", "-1", "+1", "1e9", "1TB", "1 M i B", "MiB", "1,5GB",
    "1.", ".5GB", "1..5", "nan", "inf", "0x10", "1GiBB", "1\n2", "\u0661KB", "9" * 400, "9" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("value", BAD, ids=lambda value: repr(value)[:12])
def test_anything_else_is_refused(value: object) -> None:
    with pytest.raises(BudgetError, match=r"^max_bytes: ") as caught:
        BudgetSpec(max_bytes=value)  # type: ignore[arg-type]
    assert_all_parts(caught.value, got=repr(value))
