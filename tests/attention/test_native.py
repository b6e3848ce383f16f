"""The C kernel of decoding: exact, deaf to what is hidden, and never in the way where it cannot be built."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lavakv.attention import AttentionRequest, AttentionSettings, attend
from lavakv.attention import native as decode
from lavakv.native import build
from lavakv.store.ragged import RaggedStore
from tests.attention.cases import Case, cases, tail_mask
from tests.attention.test_stores import assert_exact, conditions

needs_compiler = pytest.mark.skipif(build.compiler() is None, reason="no C compiler here")


@pytest.fixture(autouse=True)
def _fresh_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Build once for these tests, and leave no trace in the memory of others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode, "folder", lambda: tmp_path_factory.getbasetemp() / "native")
        decode.kernel.cache_clear()
        yield
    decode.kernel.cache_clear()
    build.library.cache_clear()


def long_case(
    seed: int,
    counts: list[list[int]],
    head_dim: int,
    group: int,
    masked: bool,
    dtype: torch.dtype = torch.float32,
) -> Case:
    """Segments of several pieces beside empty ones."""
    generator = torch.Generator().manual_seed(seed)
    batch, heads, window = len(counts), len(counts[0]), 130
    evictable = max(map(max, counts)) + 3

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(dtype).transpose(1, 2)

    columns = evictable + window + 2
    mask = tail_mask(generator, batch, 1, window + 2) if masked else None
    request = AttentionRequest(noise(batch, 1, heads * group, head_dim), AttentionSettings(head_dim**-0.5), mask)
    ranked = [torch.stack([torch.randperm(evictable, generator=generator) for _ in range(heads)]) for _ in range(batch)]
    keys, values = noise(batch, columns, heads, head_dim), noise(batch, columns, heads, head_dim)
    return Case(keys, values, ranked, counts, window, request)


@needs_compiler
@settings(max_examples=100)
@given(st.sampled_from([torch.float32, torch.bfloat16]).flatmap(cases))
def test_the_kernel_is_exact(case: Case) -> None:
    store = case.fill(RaggedStore())
    with conditions(with_operator=True, with_kernel=True):
        assert_exact(case, attend(store, case.request))


@needs_compiler
@settings(max_examples=20)
@given(
    st.integers(0, 99),
    st.sampled_from([64, 80, 96, 128, 7]),
    st.sampled_from([1, 4, 7]),
    st.booleans(),
    st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_the_kernel_is_exact_over_many_pieces(
    seed: int, head_dim: int, group: int, masked: bool, dtype: torch.dtype
) -> None:
    case = long_case(seed, [[300, 0, 1], [128, 129, 512]], head_dim, group, masked, dtype)
    store = case.fill(RaggedStore())
    assert isinstance(store, RaggedStore)
    assert decode.native_fits(store, case.request)
    assert_exact(case, attend(store, case.request))


@needs_compiler
def test_what_is_hidden_may_hold_anything() -> None:
    case = long_case(1, [[40, 9]], 64, 3, masked=True)
    mask = case.request.tail_mask
    assert mask is not None
    store = case.fill(RaggedStore())
    assert isinstance(store, RaggedStore)
    assert store.tail is not None
    before = attend(store, case.request)
    hidden = ~mask[0, 0, 0]
    for part in (store.tail.keys, store.tail.values):
        part[:, :, hidden] = torch.nan
    assert attend(store, case.request).equal(before)


@needs_compiler
def test_a_nan_that_is_seen_is_not_lost() -> None:
    case = long_case(2, [[200, 9]], 64, 3, masked=False)
    store = case.fill(RaggedStore())
    assert isinstance(store, RaggedStore)
    assert store.past is not None
    store.past.keys[150, 3] = torch.nan
    answer = attend(store, case.request)
    assert bool(answer[:, :3].isnan().all())
    assert not bool(answer[:, 3:].isnan().any())


@needs_compiler
def test_what_it_cannot_take_goes_another_way() -> None:
    case = long_case(3, [[20, 9]], 8, 2, masked=False)
    store = case.fill(RaggedStore())
    assert isinstance(store, RaggedStore)
    request = case.request
    assert decode.native_fits(store, request)
    softcapped = request._replace(settings=AttentionSettings(0.3, softcap=5.0))
    several = request._replace(queries=request.queries.expand(-1, -1, 2, -1))
    learning = request._replace(queries=request.queries.clone().requires_grad_())
    for other in (softcapped, several, request._replace(queries=request.queries.double()), learning):
        assert not decode.native_fits(store, other)
    with torch.no_grad():
        assert decode.native_fits(store, learning)
    assert not decode.native_fits(replace(case, keys=case.keys.double()).fill(RaggedStore()), request)


@needs_compiler
def test_it_is_built_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build.library.cache_clear()
    assert build.library(tmp_path / "kept") is not None
    assert [file.suffix for file in (tmp_path / "kept").iterdir()] == [".so"]
    build.library.cache_clear()
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("built again"))
    assert build.library(tmp_path / "kept") is not None


@pytest.mark.parametrize("way", ["off", "no compiler", "broken compiler", "no command"])
def test_without_it_everything_works(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "native"
    if way == "off":
        monkeypatch.setenv(build.SWITCH, "0")
    elif way == "no compiler":
        monkeypatch.setattr(build, "compiler", lambda: None)
    elif way == "broken compiler":
        monkeypatch.setenv("CC", "false")
    else:
        monkeypatch.setenv("CC", "gcc '")
    monkeypatch.setattr(decode, "folder", lambda: place)
    build.library.cache_clear()
    decode.kernel.cache_clear()
    assert decode.kernel() is None
    case = long_case(4, [[20, 9]], 8, 2, masked=False)
    assert_exact(case, attend(case.fill(RaggedStore()), case.request))


@needs_compiler
@pytest.mark.parametrize(
    ("file", "right", "wrong"),
    [
        ("decode.c", "load_float32(weights + i) * scaling", "load_float32(weights + i) * 2 * scaling"),
        ("vectors.h", "words) << 16", "words) << 15"),
    ],
)
def test_a_wrong_build_is_not_used(
    file: str, right: str, wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(build.SOURCES, tmp_path, dirs_exist_ok=True)
    text = (tmp_path / file).read_text()
    assert right in text
    (tmp_path / file).write_text(text.replace(right, wrong))
    monkeypatch.setattr(build, "SOURCES", tmp_path)
    monkeypatch.setattr(decode, "folder", lambda: tmp_path)
    build.library.cache_clear()
    decode.kernel.cache_clear()
    assert build.library(tmp_path) is not None
    assert decode.kernel() is None
