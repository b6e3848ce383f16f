"""What cannot be saved or loaded is refused by name; no file and no cache is left half made."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.cache_utils import DynamicLayer

import lavakv
from lavakv.evaluation.variant import Variant, fan_out
from lavakv.eviction import saved_tensors
from lavakv.eviction.saved_header import KEY, SavedHeader, digest, parse, read_header
from lavakv.eviction.saved_tensors import read_context, write_context
from tests.hf import zoo
from tests.hf.helpers import assert_same_contents, contents, feed, lava_cache, refuses

PROMPT = zoo.prompt(20)
MODEL = "the model that the context was computed with"


def saved(kind: str, file: Path, **overrides: object) -> lavakv.LavaCache:
    """A small context of a model, in a file."""
    model = lavakv.enable(zoo.tiny(kind, **overrides))
    cache = lava_cache(model, budget=10, window=2)
    feed(model, cache, [PROMPT])
    cache.save(file)
    return cache


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "context.safetensors"


# what is loaded


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, bytes, Path]:
    """The configuration, bytes and file of the smallest context."""
    file = tmp_path_factory.mktemp("saved") / "small.safetensors"
    sizes = {"num_hidden_layers": 2, "hidden_size": 8, "num_attention_heads": 2, "num_key_value_heads": 1}
    cache = saved("gemma3_text", file, **sizes, head_dim=4, layer_types=["sliding_attention", "full_attention"])
    return cache._config, file.read_bytes(), file


def loads(config: Any, file: Path, content: bytes) -> bool:
    """Whether a file with this content is loaded; anything but a `LavaError` is let through."""
    file.write_bytes(content)
    try:
        lavakv.LavaCache.load(file, config)
    except (lavakv.InputError, lavakv.UnsupportedError):
        return False
    return True


def test_a_file_cut_at_any_byte(small) -> None:
    config, whole, file = small
    assert loads(config, file, whole)
    assert [size for size in range(len(whole)) if loads(config, file, whole[:size])] == []
    assert not loads(config, file, whole + b"\0")


@pytest.mark.parametrize("flipped", [0xFF, 0x01, 0x20])
def test_a_file_with_any_byte_changed(small, flipped: int) -> None:
    config, whole, file = small
    changed = bytearray(whole)
    accepted = []
    for place in range(len(whole)):
        changed[place] ^= flipped
        if loads(config, file, bytes(changed)):
            accepted.append(place)
        changed[place] ^= flipped
    assert accepted == []


def test_the_tensors_have_a_checksum_of_their_own_order(small) -> None:
    """Two tensors of one shape cannot change places unnoticed."""
    config, whole, file = small
    file.write_bytes(whole)
    tensors, header = load_file(file), read_header("path", file)
    names = ("layers.1.tail_keys", "layers.1.tail_values")
    tensors[names[0]], tensors[names[1]] = tensors[names[1]], tensors[names[0]]
    save_file(tensors, file, metadata={KEY: header.text()})
    with refuses(lavakv.InputError, "path", "content that differs from its checksum"):
        lavakv.LavaCache.load(file, config)


def rewritten(file: Path, change: Any) -> None:
    """Write a context again with a right checksum after `change(header as a dict, tensors)`."""
    header, tensors = read_context("path", file)
    record = json.loads(header.text())
    change(record, tensors)
    write_context("path", file, SavedHeader(**record), tensors)


def _set(path: str, value: Any) -> Any:
    def change(record: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        *way, last = path.split("/")
        for name in way:
            record = record[int(name) if isinstance(record, list) else name]
        record[last] = value

    return change


def _tensor(name: str, make: Any) -> Any:
    def change(record: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        made = make(tensors.pop(name))
        if made is not None:
            tensors[name] = made

    return change


NONSENSE = {
    "another batch": _set("batch", 3),
    "other columns": _set("columns", 19),
    "no window": _set("budget/window", None),
    "an unknown budget": _set("budget/most", 3),
    "an unknown store": _set("store", "sparse"),
    "no layers": _set("layers", []),
    "a layer of another kind": _set("layers/0/kind", "DynamicLayer"),
    "unknown state": _set("layers/0/numbers/__class__", 1),
    "a dtype that is none": _set("layers/0/numbers/dtype", {"dtype": "nothing"}),
    "a watch of other numbers": _set("state/watch", {"budget": 1}),
    "no reservation": _set("state/reserved", "many"),
    "a model without a geometry": _set("model/geometry", {}),
    "columns beyond the past": _tensor("layers.1.past_columns", lambda t: t + 100),
    "negative columns": _tensor("layers.1.past_columns", lambda t: t - 100),
    "more counts than entries": _tensor("layers.1.past_counts", lambda t: t + 1),
    "a tensor is missing": _tensor("layers.1.past_values", lambda _: None),
    "values of another length": _tensor("layers.1.past_values", lambda t: t[:-1]),
    "a flat tail": _tensor("layers.1.tail_keys", lambda t: t.flatten()),
    "another batch in the tail": _tensor("layers.1.tail_values", lambda t: torch.cat([t, t])),
    "another number of columns": _tensor("layers.1.num_columns", lambda t: t + 1),
    "tokens of another shape": _tensor("columns.tokens", lambda t: t[:, 1:]),
    "padding that is no bool": _tensor("columns.real", lambda t: t.long()),
    "budgets of other layers": _tensor("budgets.layer_entries", lambda t: torch.cat([t, t])),
    "budgets of other heads": _tensor("budgets.head_entries", lambda t: torch.cat([t, t], dim=2)),
}


@pytest.mark.parametrize("case", NONSENSE)
def test_nonsense_with_a_right_checksum(case: str, small) -> None:
    config, whole, file = small
    file.write_bytes(whole)
    rewritten(file, NONSENSE[case])
    with pytest.raises(lavakv.InputError):
        lavakv.LavaCache.load(file, config)


def test_a_newer_format(small) -> None:
    config, whole, file = small
    file.write_bytes(whole)
    rewritten(file, _set("format", 2))
    with refuses(lavakv.UnsupportedError, "path", "format 2"):
        lavakv.LavaCache.load(file, config)


@pytest.mark.parametrize(
    ("content", "got"),
    [
        (b"", "no safetensors file"),
        (b"\x80\x04\x95 a pickle", "no safetensors file"),
        (b"\x02\0\0\0\0\0\0\0{}", "without lavakv's header"),
        (b"\x02\0\0\0\0\0\0\0[]", "a damaged header"),
        (b"\x06\0\0\0\0\0\0\0" + b"[" * 6, "a damaged header"),
        (b"\xa0\x86\x01\0\0\0\0\0" + b"[" * 100_000, "a damaged header"),
    ],
)
def test_files_that_are_none(content: bytes, got: str, file: Path) -> None:
    file.write_bytes(content)
    with refuses(lavakv.InputError, "path", got):
        lavakv.LavaCache.load(file, zoo.tiny_config("llama"))


def test_a_missing_file_a_folder_and_weights(file: Path) -> None:
    config = zoo.tiny_config("llama")
    with refuses(lavakv.InputError, "path", "No such file"):
        lavakv.LavaCache.load(file, config)
    with refuses(lavakv.InputError, "path", "no file"):
        lavakv.LavaCache.load(file.parent, config)
    save_file({"weight": torch.zeros(2)}, file)
    with refuses(lavakv.InputError, "path", "without lavakv's header"):
        lavakv.LavaCache.load(file, config)


# models


@pytest.mark.parametrize(
    ("kind", "dtype", "overrides", "got"),
    [
        ("qwen2", torch.float32, {}, "architecture qwen2"),
        ("llama", torch.float32, {"num_hidden_layers": 4}, "num layers 4"),
        ("llama", torch.float32, {"num_key_value_heads": 1}, "num heads [1, 1, 1]"),
        ("llama", torch.float32, {"head_dim": 16}, "head dims [16, 16, 16]"),
        ("llama", torch.float32, {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, "500000"),
        ("llama", torch.bfloat16, {}, "bfloat16"),
        ("llama", torch.float32, {"intermediate_size": 64}, "other weights"),
    ],
)
def test_another_model(kind: str, dtype: torch.dtype, overrides: dict[str, object], got: str, file: Path) -> None:
    saved("llama", file)
    with refuses(lavakv.CacheMismatchError, "model", got):
        lavakv.LavaCache.load(file, zoo.tiny(kind, dtype, **overrides))


def test_other_weights_of_one_shape(file: Path) -> None:
    saved("gemma3_text", file)
    model = zoo.tiny("gemma3_text")
    with torch.no_grad():
        model.model.layers[4].mlp.down_proj.weight *= 1.01
    with refuses(lavakv.CacheMismatchError, "model", "other weights"):
        lavakv.LavaCache.load(file, model)
    lavakv.LavaCache.load(file, model.config)


def test_another_window_of_the_sliding_layers(file: Path) -> None:
    saved("gemma3_text", file)
    with refuses(lavakv.CacheMismatchError, "model", "layers"):
        lavakv.LavaCache.load(file, zoo.tiny_config("gemma3_text", sliding_window=16))


def test_no_model(file: Path) -> None:
    saved("llama", file)
    with refuses(lavakv.InputError, "model"):
        lavakv.LavaCache.load(file, "llama")


# what is saved


@pytest.fixture
def old(file: Path) -> Iterator[Path]:
    """A file that must stay as it is, in a folder of its own."""
    file.write_bytes(b"old")
    yield file
    assert file.read_bytes() == b"old"
    assert os.listdir(file.parent) == [file.name]


def test_an_empty_cache(old: Path) -> None:
    with refuses(lavakv.CacheStateError, "cache", "an empty cache"):
        lava_cache(zoo.tiny("llama")).save(old)


@pytest.mark.parametrize("turn", [0, 1])
def test_a_cache_in_the_middle_of_a_forward(turn: int, old: Path) -> None:
    """Which also leaves the cache broken where it is not the prompt's."""
    model = lavakv.enable(zoo.tiny("llama"))
    cache = lava_cache(model)
    if turn:
        feed(model, cache, [PROMPT])
    hook = model.model.layers[1].register_forward_hook(lambda *_: cache.save(old))
    with refuses(lavakv.CacheStateError, "cache", "half-way"):
        feed(model, cache, [PROMPT])
    hook.remove()
    with refuses(lavakv.CacheStateError, "cache", "half-way" if turn else "an empty cache"):
        cache.save(old)


def test_a_layer_of_a_foreign_kind(old: Path) -> None:
    class ForeignLayer(DynamicLayer):
        pass

    model = lavakv.enable(zoo.tiny("gemma3_text"))
    cache = lava_cache(model)
    feed(model, cache, [PROMPT])
    cache.layers[2].__class__ = ForeignLayer
    with refuses(lavakv.UnsupportedError, "cache", "layer 2, a ForeignLayer"):
        cache.save(old)


def test_a_layer_with_state_of_a_foreign_kind(old: Path) -> None:
    model = lavakv.enable(zoo.tiny("gemma3_text"))
    cache = lava_cache(model)
    feed(model, cache, [PROMPT])
    cache.layers[0].history = [1]
    with refuses(lavakv.UnsupportedError, "cache", "DynamicSlidingWindowLayer with a list called history"):
        cache.save(old)


def test_state_in_a_dtype_that_cannot_be_saved(old: Path) -> None:
    model = lavakv.enable(zoo.tiny("gemma3_text"))
    cache = lava_cache(model)
    feed(model, cache, [PROMPT])
    cache.layers[2].keys = cache.layers[2].keys.to(torch.complex64)
    with refuses(lavakv.UnsupportedError, "cache", "states.2.keys in torch.complex64"):
        cache.save(old)


def test_a_cache_of_several_policies(old: Path) -> None:
    variants = [Variant("lava", budget=10, window=2), Variant("snapkv", budget=10, window=2)]
    with refuses(lavakv.UnsupportedError, "cache", "a FanOutCache"):
        fan_out(variants, zoo.tiny_config("llama")).save(old)


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, lavakv.DiskError), (errno.EACCES, lavakv.InputError)])
def test_a_file_that_cannot_be_written_to_its_end(
    number: int, kind: type[lavakv.LavaError], old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = saved_tensors._chunks

    def failing(*args: Any) -> Iterator[Any]:
        yield from list(chunks(*args))[:3]
        raise OSError(number, os.strerror(number))

    model = lavakv.enable(zoo.tiny("gemma3_text"))
    cache = lava_cache(model)
    feed(model, cache, [PROMPT])
    before = contents(cache)
    monkeypatch.setattr(saved_tensors, "_chunks", failing)
    with refuses(kind, "path"):
        cache.save(old)
    assert_same_contents(before, cache)


def test_an_interruption_while_it_is_written(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> Iterator[Any]:
        yield b"half"
        raise KeyboardInterrupt

    model = lavakv.enable(zoo.tiny("llama"))
    cache = lava_cache(model)
    feed(model, cache, [PROMPT])
    monkeypatch.setattr(saved_tensors, "_chunks", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cache.save(old)


def test_a_folder_and_a_file_in_no_folder(file: Path) -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    cache = lava_cache(model)
    feed(model, cache, [PROMPT])
    with refuses(lavakv.InputError, "path", "which is a folder"):
        cache.save(file.parent)
    with refuses(lavakv.InputError, "path", "No such file"):
        cache.save(file.parent / "none" / "context.safetensors")
    assert os.listdir(file.parent) == []


def test_the_digest_covers_every_field(small) -> None:
    """Changed one by one, each gives another checksum; the checksum itself does not count."""
    _, whole, file = small
    file.write_bytes(whole)
    with file.open("rb") as opened:
        header, entries = parse("path", file, opened)
    record = json.loads(header.text())
    changed = {
        name: {**record, name: "x" if isinstance(value, str) else {"x": 1} if isinstance(value, dict) else 7}
        for name, value in record.items()
    }
    digests = {name: digest(SavedHeader(**each), entries).hexdigest() for name, each in changed.items()}
    own = digest(header, entries).hexdigest()
    assert [name for name, found in digests.items() if found == own] == ["checksum"]
