"""The reference of `residual` itself: against the model's own layers, against entries really left out, and by hand."""

from __future__ import annotations

import pytest
import torch

from tests.hf.zoo import prompt, tiny
from tests.oracle import family, family_residual, reference
from tests.oracle.family_view import View

LENGTH, WINDOW = 40, 8


@pytest.fixture(scope="module")
def layers() -> list[View]:
    captures = reference.capture_prompt(tiny("llama", attention="eager"), prompt(LENGTH)).captures
    return family.views(captures, WINDOW, dtype=torch.float64)


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gemma3_text", "gpt_oss"])
def test_the_stream_is_what_enters_the_layer(kind: str) -> None:
    model, entered = tiny(kind, attention="eager"), []
    for layer in model.model.layers:
        layer.register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    captures = reference.capture_prompt(model, prompt(LENGTH, batch=2)).captures
    assert len(entered) == len(model.model.layers)
    for layer, capture in captures.items():
        assert torch.equal(capture.stream, entered[layer])
        for sequence in range(2):
            norms = torch.linalg.vector_norm(entered[layer][sequence, -WINDOW:], dim=-1)
            torch.testing.assert_close(View(capture, WINDOW, sequence).entering_norms, norms)


def test_known_changes_are_those_of_entries_left_out(layers: list[View], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where attention stays as it is: softmax without an entry, through the projection, against the stream's length."""
    monkeypatch.setattr(family_residual, "expected_attention", lambda whole, _: whole)
    for view in layers:
        for head in view.heads:
            for query in view.queries_of(head):
                known, _ = family_residual._changes(view, head, query)
                torch.testing.assert_close(known, _left_out(view, head, query))


def _left_out(view: View, head: int, query: int) -> torch.Tensor:
    rows, values, projection = view.whole[query], view.all_values[head], view.projection_of(query)
    weights = torch.arange(1, WINDOW + 1, dtype=rows.dtype) / (WINDOW * (WINDOW + 1) / 2)
    changes = []
    for place in range(view.num_evictable):
        rest = rows.clone()
        rest[:, place] = 0
        rest /= rest.sum(dim=1, keepdim=True)
        change = ((rest - rows) @ values @ projection).norm(dim=1) / view.stream_norms
        changes.append((weights * change.square()).sum())
    return torch.stack(changes)


def test_drift() -> None:
    rows = torch.tensor([[0.5, 0.1], [0.3, 0.1], [0.3, 0.2]])
    assert family_residual.drift(rows) == pytest.approx(0.2 + 0.05)  # the odd row belongs to the second half
    assert family_residual.drift(rows[:1]) == 1.0
    assert family_residual.drift(torch.eye(2)) == 1.0


def test_surprise() -> None:
    rows = torch.tensor([[0.5, 0.1], [0.3, 0.1], [0.1, 0.4]])
    assert family_residual.surprise(rows).item() == pytest.approx((0.3**2 + 0.3**2) / 3)
    assert family_residual.surprise(rows[:1]).item() == pytest.approx(0.5**2 + 0.1**2)


def test_expected_attention_keeps_the_sums_of_rows() -> None:
    rows = torch.tensor([[0.81, 0.0, 0.0016], [0.0, 0.0625, 0.5]])
    assert family_residual.drift(rows[:, :2]) == pytest.approx(0.8725)
    flat = torch.tensor([[0.9486833 / 1.1486833, 0.0, 0.2 / 1.1486833], [0.0, 0.5 / 1.3408964, 0.8408964 / 1.3408964]])
    expected = 0.1275 * rows + 0.8725 * flat * torch.tensor([[0.8116], [0.5625]])
    torch.testing.assert_close(family_residual.expected_attention(rows, 2), expected)


def test_later_rows_weigh_more_and_long_streams_less(layers: list[View]) -> None:
    for view in layers:
        shares = family_residual.row_weights(view) * view.stream_norms.square()
        assert shares.sum().item() == pytest.approx(1.0)
        torch.testing.assert_close(shares / shares[0], torch.arange(1, WINDOW + 1, dtype=torch.float64))
