"""The log gives the queries of the last columns, whatever happened to them since."""

from __future__ import annotations

import copy
import pickle

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lavakv.attention import AttentionSettings
from lavakv.eviction.query_log import QueryLog

LAYERS, HEADS, DIM = (1, 4), 2, 3
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.integers(1, 6)),
        st.tuples(st.just("fail"), st.integers(1, 3)),
        st.tuples(st.just("truncate"), st.integers(1, 4)),
        st.tuples(st.just("select"), st.lists(st.integers(0, 1), min_size=2, max_size=2)),
        st.tuples(st.just("copy"), st.booleans()),
    ),
    max_size=12,
)


def _read(log: QueryLog, made: Tensor, norms: bool) -> None:
    """Note queries and norms `[B, columns]` that say which sequence and column they are of, and the layer."""
    log.begin(made.shape[1])
    for layer in LAYERS:
        queries = (made * 10 + layer)[:, None, :, None].expand(-1, HEADS, -1, DIM)
        log.note(layer, queries, AttentionSettings(0.1 * layer), made * 10 + layer if norms else None)


@given(OPERATIONS, st.integers(1, 7), st.booleans())
def test_the_last_columns_of_today(operations: list[tuple[str, object]], window: int, norms: bool) -> None:
    log, columns, number = QueryLog(window), torch.zeros(2, 0), 0
    for name, argument in operations:
        if name in ("read", "fail"):
            assert isinstance(argument, int)
            made = torch.arange(number, number + argument) + torch.tensor([[0.0], [1000.0]])
            _read(log, made, norms)
            log.end(succeeded=name == "read")
            number += argument
            columns = torch.cat([columns, made], dim=1)[:, -window:] if name == "read" else columns
        elif name == "truncate":
            assert isinstance(argument, int)
            argument = min(argument, columns.shape[1])
            log.truncate(argument)
            columns = columns[:, : columns.shape[1] - argument]
        elif name == "select":
            log.select(argument)  # type: ignore[arg-type]
            columns = columns[argument]  # type: ignore[index]
        else:
            log = copy.deepcopy(log) if argument else pickle.loads(pickle.dumps(log))
        assert columns.shape[1] <= log.num_columns <= window or log.num_columns == columns.shape[1]
        if not columns.shape[1]:
            continue
        for layer, found in zip(LAYERS, log.observations(lambda layer: torch.tensor(layer)), strict=True):
            assert found.layer == layer
            assert found.settings == AttentionSettings(0.1 * layer)
            assert found.output_weight is not None
            assert int(found.output_weight) == layer
            expected = (columns * 10 + layer)[:, None, :, None].expand(-1, HEADS, -1, DIM)
            assert found.queries[:, :, -columns.shape[1] :].equal(expected)
            assert found.residual_norms is None or found.residual_norms[:, -columns.shape[1] :].equal(
                columns * 10 + layer
            )
            assert (found.residual_norms is not None) == norms


def test_nothing_larger_is_kept_alive() -> None:
    log, prompt = QueryLog(4), torch.zeros(1, HEADS, 1000, DIM)
    log.begin(1000)
    log.note(0, prompt, AttentionSettings(1.0), torch.zeros(1, 1000))
    log.end(succeeded=True)
    (found,) = log.observations(lambda _: None)
    assert found.queries.shape[2] == log.num_columns == 4
    held = [part for one in log._forwards for parts in (one.queries, one.norms) for part in parts.values()]
    assert sum(part.untyped_storage().nbytes() for part in held) == 4 * (HEADS * DIM + 1) * 4
