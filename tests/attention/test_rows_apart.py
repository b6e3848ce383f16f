"""What goes wrong in one row of a batch does not reach another, on any path and in any dtype."""

from __future__ import annotations

import pytest
import torch

from lavakv.attention import attend
from lavakv.store import blocks
from lavakv.store.masked import MaskedStore
from lavakv.store.ragged import RaggedStore
from tests.attention.cases import Case
from tests.attention.kernel_cases import case
from tests.attention.test_stores import conditions

COUNTS = {"ragged": [[9, 4], [3, 12], [7, 1]], "even": [[6, 6], [6, 6], [6, 6]], "row empty": [[0, 0], [5, 9], [1, 2]]}
PATHS = {"operator": (True, False), "products": (False, False), "kernel": (True, True)}
WRONG = [float("nan"), float("inf"), float("-inf")]


def _poisoned(example: Case, row: int, number: float) -> Case:
    """The same with what one row holds, sends or both gone wrong."""
    queries, keys, values = example.request.queries.clone(), example.keys.clone(), example.values.clone()
    for tensor in (queries, keys, values):
        tensor[row] = number
    return Case(keys, values, example.ranked, example.counts, example.window, example.request._replace(queries=queries))


@pytest.mark.parametrize("number", WRONG)
@pytest.mark.parametrize("settings", [{}, {"masked": True}, {"num_queries": 3}, {"past_masked": True}], ids=str)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_the_other_rows_are_bit_equal(
    dtype: torch.dtype, counts: str, path: str, settings: dict[str, object], number: float
) -> None:
    example = case(dtype, 16, COUNTS[counts], **settings)  # type: ignore[arg-type]
    with_operator, with_kernel = PATHS[path]
    with conditions(with_operator, poisoned=False, with_kernel=with_kernel), pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "MIN_ENTRIES", 1)
        patch.setattr(blocks, "MAX_ENTRIES", 5)
        for store in (RaggedStore, MaskedStore):
            sound = attend(example.fill(store()), example.request)
            for row in (0, 1):
                wrong = _poisoned(example, row, number)
                answer = attend(wrong.fill(store()), wrong.request)
                others = [index for index in range(3) if index != row]
                assert answer[others].equal(sound[others])
                assert not bool(answer[row].isfinite().all())
