"""The reference of `residual-far` itself: against entries really left out of the model's own attention, and by hand."""

from __future__ import annotations

import pytest
import torch

from tests.hf.zoo import prompt, tiny
from tests.oracle import family, family_residual_far, reference
from tests.oracle.family_residual import residual, squares
from tests.oracle.family_residual_far import divisors, far_squares, residual_far, rows_asked
from tests.oracle.family_view import View

WINDOW = 8
NUM_FAR = 63  # of 192 evictable positions, those more than 128 before the last one


def _views(num_evictable: int, kind: str = "llama") -> tuple[list[View], tuple[torch.Tensor, ...]]:
    """Views of a prompt in float64, and the attention that the model tells, by layer."""
    model, ids = tiny(kind, dtype=torch.float64, attention="eager"), prompt(num_evictable + WINDOW)
    layers = family.views(reference.capture_prompt(model, ids).captures, WINDOW, dtype=torch.float64)
    return layers, model(ids, output_attentions=True).attentions


@pytest.mark.parametrize(
    ("num_evictable", "rows"),
    [
        (1, [0]),
        (5, [1, 2, 3, 4]),
        (8, [2, 3, 4, 5, 6, 7]),
        (170, list(range(42, 170))),
        (172, [*range(43, 170), 171]),
        (341, list(range(86, 341, 2))),
    ],
)
def test_rows_asked(num_evictable: int, rows: list[int]) -> None:
    assert rows_asked(num_evictable) == rows


def test_rows_asked_are_even() -> None:
    rows = rows_asked(1000)
    assert len(rows) == 128
    assert rows[:4] == [254, 260, 266, 272]  # 750 positions: 5.86, 11.72, 17.58, 23.44 from 250 on
    assert rows[-2:] == [993, 999]


def test_divisors_count_rows_far_behind_but_never_few() -> None:
    assert divisors(8).tolist() == [0.75] * 8
    assert divisors(130).tolist() == [12.25] * 130  # 98 rows, of which one is far behind one entry
    told = divisors(192).tolist()  # 128 rows in 144 positions, none at 55, 64, ..., 190
    assert told[0] == sum(row > 128 for row in rows_asked(192)) == 56
    assert told[NUM_FAR - 1 :] == [16.0] * (192 - NUM_FAR + 1)
    assert told == sorted(told, reverse=True)


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt_oss"])
def test_far_changes_are_those_of_entries_left_out(kind: str) -> None:
    layers, told = _views(192, kind)
    for view in layers:
        for head in view.heads:
            expected = sum(_left_out(view, head, query, told[view.layer][0, query]) for query in view.queries_of(head))
            assert (expected[:NUM_FAR] > 0).all()
            torch.testing.assert_close(far_squares(view, head), expected)


@torch.no_grad()
def _left_out(view: View, head: int, query: int, attention: torch.Tensor) -> torch.Tensor:
    """Softmax without an entry, through the projection, against the window's streams; mean over rows far behind."""
    values, projection = view.all_values[head], view.projection_of(query)
    ramp = torch.arange(1, WINDOW + 1, dtype=values.dtype) / (WINDOW * (WINDOW + 1) / 2)
    changes = torch.zeros(view.num_evictable, dtype=values.dtype)
    for place in range(NUM_FAR):
        behind = [row for row in rows_asked(view.num_evictable) if row > place + 128]
        rows = attention[behind]
        sinks = 1 - rows.sum(dim=1, keepdim=True)
        rest = rows.clone()
        rest[:, place] = 0
        rest /= rest.sum(dim=1, keepdim=True) + sinks
        lost = ((rest - rows) @ values @ projection).square().sum() / max(len(behind), 16)
        changes[place] = sum(lost * ramp / view.stream_norms.square())
    return changes


def test_a_prompt_without_rows_far_behind_scores_as_residual() -> None:
    for view in _views(129)[0]:  # the last row is 128 behind the first entry
        assert residual_far(view, 10).scores == residual(view, 10).scores


def test_one_position_more_and_the_first_entry_has_a_row_far_behind() -> None:
    for view in _views(130)[0]:
        for far, near in zip(residual_far(view, 10).scores, residual(view, 10).scores, strict=True):
            assert far[0] > near[0]
            assert far[1:] == near[1:]


def test_nearness_is_excluded(monkeypatch: pytest.MonkeyPatch) -> None:
    """One row asked, at 140: entries up to 11 are 129 or more before it, 12 is 128."""
    monkeypatch.setattr(family_residual_far, "rows_asked", lambda _: [140])
    for view in _views(150)[0]:
        for head in view.heads:
            far = far_squares(view, head)
            assert (far[:12] > 0).all()
            assert (far[12:] == 0).all()


def test_scores_are_roots_of_both_parts() -> None:
    for view in _views(192)[0]:
        for head, scores in enumerate(residual_far(view, 10).scores):
            expected = squares(view, head) + far_squares(view, head) / 10
            torch.testing.assert_close(torch.tensor(scores, dtype=torch.float64).square(), expected)


def test_an_entry_that_has_all_attention_leaves_a_little(monkeypatch: pytest.MonkeyPatch) -> None:
    view = _views(192)[0][0]
    alone = torch.zeros(128, 200, dtype=torch.float64)
    alone[:, 3] = 1.0
    alone[:, 4] = 1e-9  # the output is then not quite the value of the entry
    monkeypatch.setattr(view, "rows_at", lambda *_: alone)
    gap, stream = 1e-9 * view.all_values[0, 4], (torch.arange(1, 9) / 36 / view.stream_norms.square()).sum()
    lengths = [(gap @ view.projection_of(query)).square().sum() for query in view.queries_of(0)]
    torch.testing.assert_close(far_squares(view, 0)[3], 1024.0**2 * sum(lengths) * stream)


def test_padding_on_the_left_changes_nothing() -> None:
    model, ids = tiny("llama", dtype=torch.float64, attention="sdpa"), prompt(200)
    padded = torch.cat([torch.zeros(1, 5, dtype=ids.dtype), ids], dim=1)
    alone = family.views(reference.capture_prompt(model, ids).captures, WINDOW)
    captures = reference.capture_prompt(model, padded, (padded != 0).long()).captures
    beside = family.views(captures, WINDOW, num_padding=5)
    assert family.survivors(beside, "residual-far", 24) == family.survivors(alone, "residual-far", 24)
