"""`lavakv demo`, on a tiny model that knows no answers."""

from __future__ import annotations

import json

import pytest

from lavakv.cli.main import run
from tests.cli.conftest import make_model


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory) -> str:
    return str(make_model(tmp_path_factory.mktemp("demo"), positions=2048))


def test_asks_every_fact_of_every_cache(model_dir, capsys) -> None:
    assert run(["demo", "-m", model_dir, "--tokens", "400", "-n", "3", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert [cache["kept"] for cache in record["caches"]] == ["all", "50%", "25%", "12.5%"]
    for cache in record["caches"]:
        assert len(cache["right"]) == len(cache["answers"]) == len(record["facts"]) == 3
        for right, text, fact in zip(cache["right"], cache["answers"], record["facts"], strict=True):
            assert right == (fact["answer"].lower() in text.lower())
    sizes = [cache["kv_bytes"] for cache in record["caches"]]
    assert sizes == sorted(sizes, reverse=True)


def test_shows_answers_memory_speed_and_budgets(model_dir, capsys) -> None:
    assert run(["demo", "-m", model_dir, "--tokens", "400", "-n", "3", "--seed", "5"]) == 0
    shown = capsys.readouterr().out
    for text in ("full cache", "LAVa, 12.5%", "KiB", "tokens/s", "of 3", "wrong", "head 0", "layer    0 2"):
        assert text in shown
