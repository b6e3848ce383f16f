"""Pages as vLLM's kernels for a CPU keep them: read as written, and heads of unequal length attended to."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from vllm import _custom_ops as ops
from vllm.v1.attention.backends.cpu_attn import _get_attn_isa

from lavakv.errors import UnsupportedError
from lavakv.store.head_pages import HeadPages
from lavakv.vllm.cache_pages import CachePages

LAYERS, HEADS, BLOCKS, GROUP = 3, 2, 20, 3
CASES = [(dtype, tokens, size) for dtype in (torch.float32, torch.bfloat16) for tokens in (32, 64) for size in (32, 64)]
CASES += [(torch.float32, 16, 64), (torch.float32, 32, 80)]


def make_caches(dtype: torch.dtype, tokens: int, size: int) -> list[torch.Tensor]:
    """Caches of all layers in one storage, as vLLM allocates them."""
    shape = BLOCKS, HEADS, tokens, 2 * size
    whole = torch.randn(LAYERS, *shape).to(dtype)
    return list(whole.unbind())


def make_pages(dtype: torch.dtype, tokens: int, size: int) -> tuple[list[torch.Tensor], CachePages, str]:
    isa = _get_attn_isa(dtype, tokens, size).replace("amx", "vec")  # as the backend does
    caches = make_caches(dtype, tokens, size)
    return caches, CachePages(caches, isa), isa


@pytest.mark.parametrize(("dtype", "tokens", "size"), CASES)
def test_a_prompt_reads_back_as_vllm_wrote_it(dtype, tokens, size) -> None:
    torch.manual_seed(0)
    caches, pages, isa = make_pages(dtype, tokens, size)
    length, blocks = 3 * tokens - 5, torch.tensor([7, 2, 11], dtype=torch.int32)
    keys, values = torch.randn(2, LAYERS, length, HEADS, size).to(dtype)
    at = torch.arange(length)
    slots = blocks.long()[at // tokens] * tokens + at % tokens
    for layer, cache in enumerate(caches):
        views = cache.view(BLOCKS, HEADS, 2 * tokens, size).chunk(2, dim=2)
        ops.cpu_attn_reshape_and_cache(keys[layer], values[layer], *views, slots, isa)
    for layer in range(LAYERS):
        found_keys, found_values = pages.of_prompt(layer, blocks, length)
        assert torch.equal(found_keys, keys[layer].transpose(0, 1))
        assert torch.equal(found_values, values[layer].transpose(0, 1))
    counts = torch.tensor([[3, 0], [1, 4], [2, 2]])
    positions = [torch.tensor([0, 31, length - 1]), torch.tensor([5, 1, 2, 3, 30]), torch.tensor([9, 10, 0, 1])]
    got_keys, got_values = pages.entries(blocks, positions, counts)
    owners = [(layer, head) for layer in range(LAYERS) for head in range(HEADS) for _ in range(counts[layer, head])]
    for index, ((layer, head), position) in enumerate(zip(owners, torch.cat(positions).tolist(), strict=True)):
        assert torch.equal(got_keys[index, 0], keys[layer, position, head])
        assert torch.equal(got_values[index, 0], values[layer, position, head])


@pytest.mark.parametrize(("dtype", "tokens", "size"), CASES)
def test_heads_of_unequal_length_as_sequences_of_their_own(dtype, tokens, size) -> None:
    """Bitwise as the kernel on a cache of one head in order, and right: within twice the error of PyTorch's attention.

    Errors are against float64, PyTorch's in the same dtype and over all heads.
    """
    torch.manual_seed(1)
    _, pages, isa = make_pages(dtype, tokens, size)
    heads = HeadPages(pages.first_pages, HEADS, tokens)
    row = torch.tensor([heads.open()])
    heads.add_blocks(int(row), torch.arange(1, BLOCKS))
    counts = [90, 3, 1, 64, 40, 40]
    keys, values = torch.randn(2, sum(counts), 1, size).to(dtype)
    pages.write(keys, values, heads.append(row, torch.tensor([counts])))
    tables, lengths = heads.tables(row)
    own = zip(torch.split(keys, counts), torch.split(values, counts), strict=True)
    worst = of_pytorch = 0.0
    for layer in range(LAYERS):
        queries = torch.randn(HEADS, GROUP, size).to(dtype)
        found = kernel(queries, pages.key_blocks, pages.value_blocks, tables[layer], lengths[layer], isa)
        for head in range(HEADS):
            key, value = next(own)
            one = CachePages([torch.zeros(8, 1, tokens, 2 * size, dtype=dtype)], isa)
            one.write(key, value, tokens + torch.arange(len(key)))
            table = torch.arange(1, 8, dtype=torch.int32)[None]
            length = torch.tensor([len(key)], dtype=torch.int32)
            alone = kernel(queries[head : head + 1], one.key_blocks, one.value_blocks, table, length, isa)[0]
            assert torch.equal(found[head], alone)
            exact = attend(queries[head].double(), key.double(), value.double())
            plain = attend(queries[head], key, value)
            of_pytorch = max(of_pytorch, float((plain.double() - exact).abs().max()))
            worst = max(worst, float((found[head].double() - exact).abs().max()))
    assert worst <= 2 * of_pytorch


def kernel(queries, key_blocks, value_blocks, table, lengths, isa) -> torch.Tensor:
    """One query for each sequence, `[sequences, G, head_dim]`."""
    starts, output = torch.arange(len(queries) + 1, dtype=torch.int32), torch.empty_like(queries)
    _, group, size = queries.shape
    schedule = ops.cpu_attn_get_scheduler_metadata(
        num_reqs=len(queries), num_heads=group, num_kv_heads=1, head_dim=size, seq_lens=lengths, dtype=queries.dtype,
        query_start_loc=starts, causal=True, sliding_window_size=-1, isa=isa, enable_kv_split=True,
    )  # fmt: skip
    ops.cpu_attention_with_kv_cache(
        query=queries, key_cache=key_blocks, value_cache=value_blocks, output=output, query_start_loc=starts,
        seq_lens=lengths, scale=size**-0.5, causal=True, alibi_slopes=None, sliding_window=-1, block_table=table,
        softcap=0, scheduler_metadata=schedule, s_aux=None,
    )  # fmt: skip
    return output


def attend(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Queries `[G, head_dim]` to keys and values `[entries, 1, head_dim]`."""
    return scaled_dot_product_attention(queries[None], keys[None, :, 0], values[None, :, 0])[0]


def test_another_layout_is_refused_at_start() -> None:
    """AMX's, which vLLM writes without AMX as well."""
    with pytest.raises(UnsupportedError, match="layout"):
        CachePages(make_caches(torch.bfloat16, 32, 32), "amx")


def test_caches_of_another_kind_are_refused() -> None:
    one, two, three = (torch.zeros(BLOCKS, HEADS, 32, 64) for _ in range(3))
    with pytest.raises(UnsupportedError, match="caches apart"):
        CachePages([one, two, three], "vec")
    tokens_first = torch.zeros(LAYERS, BLOCKS, 32, HEADS, 64).transpose(2, 3)
    with pytest.raises(UnsupportedError, match="strides"):
        CachePages(list(tokens_first.unbind()), "vec")
