"""The written report: self-contained, well-formed, and nothing of what models say is read as code."""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lavakv.errors import UnsupportedError
from lavakv.report.contents import report_of
from lavakv.report.filters import cell, fence, heading, heat, marked
from lavakv.report.page import as_bytes
from lavakv.report.pictures import pictures
from lavakv.report.run import Run
from lavakv.report.sections.score_table import Column
from lavakv.report.writing import html, markdown, write_report
from tests.report.made_up import records

NASTY = (
    "</script><script>alert(1)</script> <img src=x onerror=alert(2)> | `` ``` {{ 7 * 7 }} \ud800 \x00 **bold** [a](b)"
)
VOID = {"meta", "link", "br", "input", "img", "hr", "option", "line", "rect", "circle", "path", "polyline"}


class Outline(HTMLParser):
    """Tags in order, complaining about one that closes what is not open."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag) -> None:
        if tag in VOID:
            return
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def nasty() -> Run:
    found = records(2)
    for index, record in enumerate(found):
        record |= {"prediction": f"{NASTY} {index % 3}", "answers": [NASTY], "prompt_head": NASTY, "prompt_tail": NASTY}
        record |= {"example": f"{record['example']} {NASTY}", "score": float(record["policy"] == "full cache")}
    return Run(NASTY, found, {}, 0, False)


def test_the_page_is_well_formed_and_names_no_other_file(report) -> None:
    outline = Outline(html(report))
    assert outline.open == []
    for tag, attributes in outline.seen:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:")), (tag, name, value)
    styles = re.findall(r"<style>(.*?)</style>", html(report), re.DOTALL)
    assert not re.search(r"@import|url\(", "".join(styles))
    policy = next(a["content"] for t, a in outline.seen if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_every_number_of_the_group_table_is_on_the_page_and_in_markdown(report) -> None:
    page, text = html(report), markdown(report, {})
    for block in report.groups.budgets:
        for row in block.rows:
            for estimate in row.cells:
                assert f">{estimate.mean:.1f}<" in page
                assert re.search(rf"\b{estimate.mean:.1f}\b", text)


def test_what_models_say_is_never_code_on_the_page(nasty) -> None:
    outline = Outline(html(report_of(nasty)))
    assert outline.open == []
    assert [tag for tag, _ in outline.seen].count("script") == 1
    assert "img" not in {tag for tag, _ in outline.seen}
    assert not [a for _, a in outline.seen if any(name.startswith("on") for name in a)]


def test_what_models_say_stays_inside_its_place_in_markdown(nasty) -> None:
    text = markdown(report_of(nasty), {})
    fences = 0
    for line in text.splitlines():
        fences += line.startswith("```")
        if fences % 2 == 0:
            assert "<script" not in re.sub(r"\\.", "", line)
    assert fences > 0
    assert "49" not in re.sub(r"\d*\.\d+|\d{3,}", "", text.split("## Changed answers")[1])


def test_rows_of_a_markdown_table_have_as_many_cells_as_its_head(report, nasty) -> None:
    for found in (report, report_of(nasty)):
        widths: list[int] = []
        for line in re.sub(r"\\.", "", markdown(found, {})).splitlines():
            if not line.startswith("|"):
                widths = []
                continue
            widths.append(line.count("|"))
            assert len(set(widths)) == 1, line


def test_pictures_are_svg_in_plain_colours_and_linked(report, tmp_path: Path) -> None:
    files = write_report(report, tmp_path)
    text = (tmp_path / "report.md").read_text()
    drawn = [file for file in files if file.suffix == ".svg"]
    assert {file.name for file in drawn} == set(pictures(report))
    for file in drawn:
        assert ElementTree.parse(file).getroot().tag == "{http://www.w3.org/2000/svg}svg"
        assert "var(" not in file.read_text()
        assert f"({file.name})" in text


def test_the_same_run_gives_the_same_bytes(run) -> None:
    assert html(report_of(run)) == html(report_of(run))
    assert markdown(report_of(run), {}) == markdown(report_of(run), {})


def test_a_page_has_no_half_characters() -> None:
    assert as_bytes("half of a pair: \ud800") == b"half of a pair: ?"


def test_without_jinja_the_extra_is_named(report, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'lavakv\[report\]'"):
        html(report)


def test_steps_of_the_heat_scale() -> None:
    assert [heat(value) for value in (0, 0.001, 0.1, 0.5, 1, 2)] == [0, 1, 1, 5, 10, 10]
    assert heat(float("nan")) == 0
    assert heat(50, 100) == 5


def test_gold_answers_are_found_in_any_letter_case_the_longest_first() -> None:
    text = "It was The Red Kite, the red one."
    assert marked(text, ["the red", "the red kite"]) == [
        ("It was ", False), ("The Red Kite", True), (", ", False), ("the red", True), (" one.", False),
    ]  # fmt: skip
    assert marked(text, ["a", ""]) == [(text, False)]
    assert marked("", ["gold"]) == []


def test_fences_outlast_the_backticks_inside() -> None:
    assert fence("plain") == "```"
    assert fence("a ```` b") == "`````"
    assert cell("a | b\n<i>*x*") == r"a \| b \<i\>\*x\*"


def test_both_pages_say_what_the_ablation_settles() -> None:
    names = {"snapkv": "lava-uniform-layers", "streaming-llm": "lava-uniform-heads"}
    found = [{**record, "policy": names.get(record["policy"], record["policy"])} for record in records(8)]
    report = report_of(Run("made-up", found, {}, 0, False))
    text, page = markdown(report, {}), html(report)
    assert len(report.ablation) == 12
    for one in report.ablation:
        star = " \\*" if one.is_insight else ""
        assert f"| {one.kind}{star} | {one.without} | {one.configuration.budget} per head |" in text
    for words in ("Gain from layer and head budgets", "not settled", "5 of"):
        assert words in text
        assert words in page
    assert {"yes", "not settled"} <= {one.holds for one in report.ablation}


def test_columns_of_one_name_are_told_apart_where_there_is_one_line_for_them() -> None:
    columns = [
        Column("Retrieval", "", "RULER", 1),
        Column("QA", "", "LongBench", 1),
        Column("Retrieval", "", "Needle", 1),
    ]
    assert [heading(column, columns) for column in columns] == ["RULER: Retrieval", "QA", "Needle: Retrieval"]
