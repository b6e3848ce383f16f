"""Curves: which lines there are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from lavakv.bench.floor import Floor
from lavakv.bench.plot import PANELS, lines_of, plot_curves, varied_names
from lavakv.bench.record import ConfigurationRecord, Headlines, SettingRecord
from lavakv.bench.settings import Setting


def _record(tokens: int, budget: int, seconds: float, batch: int = 1) -> SettingRecord:
    full = ConfigurationRecord(None, None, seconds, None, 10 * budget, None)
    lavakv = replace(full, decode_seconds=seconds / 2)
    return SettingRecord(
        Headlines(None, 0.5, 0.5, None, 1.0, 1.0, 0.0), Setting(tokens, batch, budget), Floor(0.0, 0.0, 0.0),
        {"full": full, "lavakv": lavakv}, None, (1, 1.0, 1),
    )  # fmt: skip


def test_prompt_length_runs_across_where_it_was_varied() -> None:
    records = [_record(200, 64, 4.0), _record(100, 64, 2.0)]
    assert varied_names(records) == ["tokens"]
    lines = lines_of(records, "decode_seconds", ["tokens"])
    assert lines == {"full": [(100, 2.0), (200, 4.0)], "lavakv": [(100, 1.0), (200, 2.0)]}


def test_the_full_cache_is_one_line_whatever_the_budgets() -> None:
    records = [_record(100, 32, 2.0), _record(100, 64, 4.0), _record(200, 32, 6.0), _record(200, 64, 6.0)]
    assert varied_names(records) == ["tokens", "budget"]
    lines = lines_of(records, "decode_seconds", ["tokens", "budget"])
    assert lines == {
        "full": [(100, 3.0), (200, 6.0)],
        "lavakv, budget 32": [(100, 1.0), (200, 3.0)],
        "lavakv, budget 64": [(100, 2.0), (200, 3.0)],
    }


def test_budgets_or_batches_run_across_where_only_they_were_varied() -> None:
    assert varied_names([_record(100, 32, 1.0), _record(100, 64, 1.0)]) == ["budget"]
    assert varied_names([_record(100, 32, 1.0), _record(100, 32, 1.0, batch=4)]) == ["batch_size"]
    assert varied_names([_record(100, 32, 1.0)]) == ["tokens"]


def test_what_was_not_measured_has_no_line() -> None:
    assert lines_of([_record(100, 32, 1.0)], "prefill_seconds", ["tokens"]) == {}


def test_panels_without_a_measurement_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "curves.svg"
    plot_curves([_record(100, 32, 2.0), _record(200, 32, 4.0), _record(200, 64, 0.0)], file)
    texts = [element.text for element in ElementTree.parse(file).iter() if element.tag.endswith("}text")]
    titles = [label for _, label in PANELS if label in texts]
    assert titles == ["seconds a token", "bytes of keys and values"]
    assert {"full", "lavakv, budget 32", "lavakv, budget 64", "prompt tokens", "100", "200"} <= set(texts)


@pytest.mark.parametrize(("ending", "magic"), [("svg", b"<svg"), ("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_a_picture_is_written(ending, magic, tmp_path: Path) -> None:
    if ending != "svg":
        pytest.importorskip("vl_convert", reason="vl-convert-python is not installed")
    file = tmp_path / f"curves.{ending}"
    plot_curves([_record(100, 32, 2.0), _record(200, 32, 4.0)], file)
    assert file.read_bytes().lstrip().startswith(magic)
    assert file.stat().st_size > 1000
