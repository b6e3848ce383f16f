from __future__ import annotations

from hypothesis import given, settings

from lavakv.store.masked import MaskedStore
from lavakv.store.ragged import RaggedStore
from tests.eviction.driver import Prefill
from tests.properties.test_online import prefills


@settings(max_examples=30)
@given(prefills())
def test_ragged_and_masked_store_end_with_the_same_survivors(prefill: Prefill) -> None:
    ends = []
    for store in (RaggedStore, MaskedStore):
        eviction, budgets = prefill.run(store)
        counts = [one.past_counts() for one in prefill.stores]
        columns = [
            [one.past_columns(row, head).tolist() for row in range(len(prefill.budgets)) for head in range(heads)]
            for one, heads in zip(prefill.stores, prefill.num_heads, strict=True)
        ]
        numbers = [tensor.nan_to_num(-1.0).tolist() for tensor in budgets]
        ends.append((counts, columns, numbers, eviction.copied_entries, eviction.peak_entries))
    assert ends[0] == ends[1]
