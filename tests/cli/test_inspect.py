"""`lavakv inspect` on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lavakv.cli.main import run


@pytest.fixture
def command(model_dir, long_prompt, tmp_path) -> list[str]:
    page = str(tmp_path / "pages" / "page.html")
    return ["inspect", long_prompt, "-m", model_dir, "-n", "3", "--no-chat", "--window", "8", "-o", page]


def test_it_writes_one_page_with_every_policy_and_budget(command, capsys, tmp_path) -> None:
    assert run([*command, "--policies", "lava,knorm", "--keep", "0.5,0.25", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["file"] == command[-1]
    assert told["prompt_tokens"] == 150
    assert [(one["policy"], one["budget"]) for one in told["variants"]] == [
        ("lava", "50%"), ("lava", "25%"), ("knorm", "50%"), ("knorm", "25%"),
    ]  # fmt: skip
    assert [file.name for file in (tmp_path / "pages").iterdir()] == ["page.html"]


def test_it_says_where_the_page_is(command, capsys) -> None:
    assert run([*command, "--budgets", "40,60", "--no-text"]) == 0
    assert command[-1] in capsys.readouterr().out
    data = Path(command[-1]).read_text().split('id="data">')[1].split("</script>")[0]
    assert json.loads(data)["budgets"] == ["40 per head, 27\u00a0%", "60 per head, 40\u00a0%"]
    assert json.loads(data)["fullAnswer"] is None


def test_a_question_is_asked_afterwards(command) -> None:
    assert run([*command, "--keep", "0.5", "--question", "word7 word8"]) == 0
    data = json.loads(Path(command[-1]).read_text().split('id="data">')[1].split("</script>")[0])
    assert data["question"].split() == ["word7", "word8"]
    assert not data["queryAware"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--policies", "lava,what"], "--policies: expected one of lava"),
        (["--keep", "2"], "keep: expected"),
        (["--policies", "lava,lava", "--keep", "0.5"], "policies: expected each one once, got lava, lava"),
        (["--budgets", "40,50,40"], "budgets: expected each one once, got 40, 50, 40"),
        (["--keep", "0.5,0.5"], "keep: expected each one once, got 0.5, 0.5"),
        (["--budgets", "x"], "--budgets: expected whole numbers"),
        (["-q", " "], "--question: expected some text"),
        (["-o", "/dev/null/page.html"], "--out: expected a file that can be written"),
        (["-o", "/"], "--out: expected a file, got /, which is a folder"),
    ],
)
def test_bad_input(arguments, complaint, command, capsys) -> None:
    assert run([*command, *arguments]) == 2
    assert complaint in " ".join(capsys.readouterr().err.split())
