"""What a session can take back: what no round has judged by."""

from __future__ import annotations

import pytest

from lavakv.errors import CacheStateError, InputError
from lavakv.policy.registry import get_policy
from lavakv.store.base import LayerStore
from lavakv.store.masked import MaskedStore
from lavakv.store.ragged import RaggedStore
from tests.eviction.engine import Engine

STORES = pytest.mark.parametrize("store", [RaggedStore, MaskedStore])


def _engine(store: type[LayerStore], budget: int, padding: list[int] | None = None) -> Engine:
    engine = Engine(get_policy("lava"), [2, 1], budget, 3, padding or [0, 4], store=store)
    engine.read(12)
    return engine


def _crop(engine: Engine, count: int) -> None:
    engine.session.crop(count)
    engine.num_columns -= count


@STORES
def test_what_came_after_a_round_can_be_taken_back(store: type[LayerStore]) -> None:
    engine, other = _engine(store, 6), _engine(store, 6)
    engine.read(2)
    engine.read(3)
    _crop(engine, 4)
    other.read(1)
    assert engine.kept() == other.kept()
    for one in (engine, other):
        one.read(4)
        one.evict()
    assert engine.kept() == other.kept()
    with pytest.raises(InputError, match="0 to 0 tokens"):
        engine.session.crop(1)


@STORES
@pytest.mark.parametrize("count", [3, 4, 9, 14, -1])
def test_what_a_round_has_judged_by_cannot(store: type[LayerStore], count: int) -> None:
    engine = _engine(store, 6)
    engine.read(2)
    before = engine.kept()
    with pytest.raises(InputError, match="0 to 2 tokens"):
        engine.session.crop(count)
    assert engine.kept() == before
    assert engine.session.columns.length == 14


@STORES
@pytest.mark.parametrize("count", [1, 3, 8, 11])
@pytest.mark.parametrize("padding", [[0, 0], [0, 4]])
def test_while_nothing_is_evicted_all_can(store: type[LayerStore], count: int, padding: list[int]) -> None:
    engine = _engine(store, 100, padding)
    engine.read(1)
    _crop(engine, count)
    left = 13 - count
    assert engine.kept()[0] == [[list(range(max(left - pad, 0)))] * 2 for pad in padding]
    if left <= 4:
        return
    engine.read(5)
    engine.evict(budget=5)
    other = Engine(get_policy("lava"), [2, 1], 100, 3, padding, store=store)
    other.read(left)
    other.read(5)
    other.evict(budget=5)
    assert engine.kept() == other.kept()


@STORES
def test_a_restored_session_takes_back_only_what_comes_later(store: type[LayerStore]) -> None:
    engine = _engine(store, 6)
    engine.read(4)
    twin = Engine(get_policy("lava"), [2, 1], 6, 3, [0, 4], store=store)
    twin.session.restore(engine.session.snapshot())
    twin.num_columns = engine.num_columns
    with pytest.raises(InputError, match="0 to 0 tokens"):
        twin.session.crop(1)
    twin.read(2)
    _crop(twin, 2)
    assert twin.kept() == engine.kept()


def test_an_empty_session_has_nothing_to_take_back() -> None:
    with pytest.raises(CacheStateError):
        Engine(get_policy("lava"), [2, 1], 6, 3, [0]).session.crop(0)
