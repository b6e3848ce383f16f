"""The dense truth, against loops that share nothing with it."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lavakv.attention import AttentionRequest, AttentionSettings
from lavakv.attention.dense import attend_dense


def looped(request: AttentionRequest, keys: Tensor, values: Tensor, visible: Tensor) -> Tensor:
    """Attention, one query and one entry at a time."""
    queries, (scaling, softcap, sinks), *_ = request
    batch, query_heads, num_queries, _ = queries.shape
    heads, columns = keys.shape[1:3]
    answer = torch.zeros(batch, query_heads, num_queries, values.shape[3], dtype=torch.float64)
    for row in range(batch):
        for query_head in range(query_heads):
            head = query_head // (query_heads // heads)
            for j in range(num_queries):
                denominator = 0.0 if sinks is None else math.exp(float(sinks[query_head]))
                for i in range(columns):
                    if visible[row, head, j, i]:
                        logit = scaling * float(queries[row, query_head, j] @ keys[row, head, i])
                        logit = logit if softcap is None else softcap * math.tanh(logit / softcap)
                        denominator += math.exp(logit)
                        answer[row, query_head, j] += math.exp(logit) * values[row, head, i]
                answer[row, query_head, j] /= denominator
    return answer


@given(st.data())
def test_dense_attention_equals_the_loops(data: st.DataObject) -> None:
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**32 - 1)))
    heads, group = data.draw(st.integers(1, 2)), data.draw(st.sampled_from([1, 3]))
    num_queries, columns = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 6))

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    keys, values = noise(2, heads, columns, 5), noise(2, heads, columns, 3)
    visible = torch.rand(2, heads, num_queries, columns, generator=generator) < 0.6
    visible[..., 0] = True
    settings = AttentionSettings(
        0.4, data.draw(st.sampled_from([None, 1.5])), data.draw(st.sampled_from([None, noise(heads * group)]))
    )
    request = AttentionRequest(noise(2, heads * group, num_queries, 5), settings)
    expected = looped(request, keys, values, visible)
    hidden = ~visible.any(dim=2)
    keys[hidden], values[hidden] = torch.nan, torch.nan  # what no query sees may hold anything
    # Sums of `columns` terms, each an exponential of a logit that is a rounded sum of five products.
    logit = float(request.queries.norm(dim=-1).max()) * 0.4 * float(keys.nan_to_num().norm(dim=-1).max())
    roundings = (columns + 5 * logit + 8) * torch.finfo(torch.float64).eps * float(values.nan_to_num().abs().max())
    assert float((attend_dense(request, keys, values, visible) - expected).abs().max()) <= roundings
