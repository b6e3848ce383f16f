"""Stores in 8 and 4 bits: each survivor is quantised once, whatever the rounds, and all that is counted is there."""

from __future__ import annotations

import copy
import pickle
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lavakv import InputError, UnsupportedError
from lavakv.store.base import LayerStore, StoreSnapshot
from lavakv.store.masked import MaskedStore
from lavakv.store.quantised import QuantisedStore
from lavakv.store.quantiser import Quantiser
from lavakv.store.ragged import RaggedStore
from tests.errors import assert_all_parts
from tests.hf.test_no_sync import no_waiting
from tests.store.rounds import Rounds, rounds

BITS = pytest.mark.parametrize("bits", [8, 4])
KINDS = {bits: (partial(QuantisedStore, bits), partial(MaskedStore, bits)) for bits in (8, 4)}
lives = st.sampled_from([8, 4]).flatmap(lambda bits: rounds(KINDS[bits], (8, 24, 40), 16).map(lambda one: (bits, one)))


def once(bits: int, vectors: Tensor) -> Tensor:
    """Vectors `[entries, dim]`, quantised once and read again."""
    return Quantiser(bits, vectors.shape[1]).quantised_once(vectors)


def expected(bits: int, whole: Tensor, past: list[int], rest: list[int]) -> Tensor:
    """What a head holds of `[columns, dim]`: quantised behind the window, as it came in the tail."""
    return torch.cat([once(bits, whole[sorted(past)]), whole[rest]])


def assert_holds(store: LayerStore, bits: int, life: Rounds) -> None:
    assert store.past_counts() == life.counts()
    tail = list(range(life.tail_start, life.num_columns))
    for sequence, heads in enumerate(life.past):
        for head, row in enumerate(heads):
            held = store.read(sequence, head)
            assert held.columns.tolist() == [*sorted(row), *tail]
            assert held.keys.equal(expected(bits, life.keys[sequence, head], row, tail))
            assert held.values.equal(expected(bits, life.values[sequence, head], row, tail))


@settings(max_examples=60, deadline=None)
@given(lives)
def test_each_survivor_is_quantised_once_in_any_number_of_rounds(life: tuple[int, Rounds]) -> None:
    bits, led = life
    for store in led.stores:
        assert_holds(store, bits, led)


@settings(max_examples=40, deadline=None)
@given(lives)
def test_both_kinds_hold_the_same_bytes(life: tuple[int, Rounds]) -> None:
    """Those that one quantisation of what the model made gives, in rank order."""
    bits, led = life
    order = [(b, h, row) for b, heads in enumerate(led.past) for h, row in enumerate(heads)]
    for store in led.stores:
        snapshot = store.snapshot()
        assert snapshot.kv_bits == bits
        for rows, whole in ((snapshot.past_keys, led.keys), (snapshot.past_values, led.values)):
            vectors = torch.cat([whole[b, h, row] for b, h, row in order])
            assert rows.equal(Quantiser(bits, whole.shape[3]).quantise(vectors))


@settings(max_examples=40, deadline=None)
@given(lives, st.data())
def test_candidates_are_what_attention_sees(life: tuple[int, Rounds], data: st.DataObject) -> None:
    bits, led = life
    window = data.draw(st.integers(0, led.num_columns - led.tail_start))
    for sequence, heads in enumerate(led.past):
        due = led.due(sequence, window)
        tables = [store.candidates(sequence, torch.tensor(due, dtype=torch.int64), window) for store in led.stores]
        assert tables[0].caps == tables[1].caps == [len(row) + len(due) for row in heads]
        assert all(one.equal(other) for one, other in zip(tables[0][:3], tables[1][:3], strict=True))
        for head, row in enumerate(heads):
            assert tables[0].keys[head, : len(row) + len(due)].equal(expected(bits, led.keys[sequence, head], row, due))


@settings(max_examples=40, deadline=None)
@given(lives)
def test_bytes_are_those_of_codes_scales_and_tail(life: tuple[int, Rounds]) -> None:
    bits, led = life
    store = led.stores[0]
    assert isinstance(store, QuantisedStore)
    assert store.past is not None
    assert store.tail is not None
    row_bytes = sum(Quantiser(bits, whole.shape[3]).row_bytes for whole in (led.keys, led.values))
    assert store.entry_bytes == row_bytes
    parts = (store.past.keys, store.past.values, *store.tail.buffers)
    assert store.nbytes == sum(part.untyped_storage().nbytes() for part in parts)
    assert store.nbytes == row_bytes * sum(map(sum, led.counts())) + store.tail.nbytes
    assert sum(store.bytes_by_sequence()) <= store.nbytes < sum(store.bytes_by_sequence()) + len(led.past)


@settings(max_examples=40, deadline=None)
@given(lives, st.integers(1, 3))
def test_a_restored_snapshot_lives_on_without_another_quantisation(life: tuple[int, Rounds], more: int) -> None:
    bits, led = life
    for store in led.stores:
        for kind in KINDS[bits]:
            twin, other = kind(), copy.deepcopy(led)
            twin.restore(store.snapshot())
            assert_holds(twin, bits, other)
            other.stores = (twin,)
            other.append(more)
            other.truncate(1)
            other.round(0, 1)
            assert_holds(twin, bits, other)
        assert_holds(store, bits, led)


@settings(max_examples=20, deadline=None)
@given(lives)
def test_a_store_in_full_precision_reads_a_snapshot_in_bits(life: tuple[int, Rounds]) -> None:
    bits, led = life
    for store in led.stores:
        for kind in (RaggedStore, MaskedStore):
            twin = kind()
            twin.restore(store.snapshot())
            assert_holds(twin, bits, led)
            assert twin.snapshot().kv_bits is None


@settings(max_examples=20, deadline=None)
@given(rounds((RaggedStore,), (8, 24), 16), st.sampled_from([8, 4]))
def test_a_snapshot_in_full_precision_is_quantised_when_it_is_restored(led: Rounds, bits: int) -> None:
    for kind in KINDS[bits]:
        twin = kind()
        twin.restore(led.stores[0].snapshot())
        assert_holds(twin, bits, led)


@settings(max_examples=30, deadline=None)
@given(lives, st.data())
def test_selected_copied_and_pickled_stores_hold_the_same(life: tuple[int, Rounds], data: st.DataObject) -> None:
    bits, led = life
    for store in led.stores:
        for twin in (copy.deepcopy(store), pickle.loads(pickle.dumps(store))):
            assert_holds(twin, bits, led)
        rows = data.draw(st.lists(st.integers(0, len(led.past) - 1), min_size=1, max_size=3))
        twin, fewer = copy.deepcopy(store), copy.deepcopy(led)
        twin.select(rows)
        fewer.keys, fewer.values = led.keys[rows], led.values[rows]
        fewer.past = [led.past[row] for row in rows]
        assert_holds(twin, bits, fewer)


def _short(store: LayerStore, dtype: torch.dtype = torch.float32, dim: int = 8) -> LayerStore:
    store.hold(*torch.randn(2, 1, 2, 6, dim).to(dtype))
    store.keep([torch.arange(4).expand(2, -1)], [[1, 3]], 2)
    return store


@BITS
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_every_float_dtype_is_read_as_it_came(bits: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    keys, values = torch.randn(2, 1, 2, 6, 8).to(dtype)
    for kind in KINDS[bits]:
        store = kind()
        store.hold(keys, values)
        store.keep([torch.arange(4).expand(2, -1)], [[1, 3]], 2)
        held = store.read(0, 1)
        assert held.keys.dtype == held.values.dtype == dtype
        assert held.keys.equal(expected(bits, keys[0, 1], [0, 1, 2], [4, 5]))
        assert held.values.equal(expected(bits, values[0, 1], [0, 1, 2], [4, 5]))


@pytest.mark.parametrize("kind", [QuantisedStore, MaskedStore])
def test_other_bits_are_refused_before_anything_changes(kind: type[QuantisedStore]) -> None:
    other, store = _short(QuantisedStore(8)).snapshot(), _short(kind(4))
    before: StoreSnapshot = store.snapshot()
    with pytest.raises(InputError, match="snapshot: expected one in 4 bits or in full precision") as caught:
        store.restore(other)
    assert_all_parts(caught.value, got="one in 8 bits")
    assert all(
        one.equal(two) if isinstance(one, Tensor) else one == two
        for one, two in zip(before, store.snapshot(), strict=True)
    )


@pytest.mark.parametrize("kind", [QuantisedStore, MaskedStore])
def test_what_cannot_be_quantised_is_named(kind: type[QuantisedStore]) -> None:
    with pytest.raises(UnsupportedError, match="heads of 12"):
        _short(kind(4), dim=12)
    with pytest.raises(UnsupportedError, match=r"float8_e4m3fn"):
        _short(kind(8), torch.float8_e4m3fn)
    store = QuantisedStore(4)
    with pytest.raises(UnsupportedError, match="heads of 12"):
        store.restore(_short(RaggedStore(), dim=12).snapshot())


@BITS
def test_nothing_is_read_on_the_host(bits: int) -> None:
    """Neither when entries are quantised, in a later round too, nor when they are read."""
    keys, values, ranked = torch.randn(1, 2, 9, 8), torch.randn(1, 2, 9, 16), [torch.arange(5).expand(2, -1)]
    store = QuantisedStore(bits)
    with no_waiting():
        store.hold(keys, values)
        store.keep(ranked, [[2, 5]], 3)
        store.append(keys, values)
        store.candidates(0, torch.arange(9, 14), 3)
        store.keep(ranked, [[1, 2]], 3)
        store.trim([[1, 1]])
        assert store.dequantised().past is not None
