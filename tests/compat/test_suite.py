"""`make test-transformers` on a small suite of ours: what is a fault, what is listed, what can go from the list."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import torch

from tests.compat.standin import make_checkout
from transformers_suite.__main__ import main
from transformers_suite.answers import AnswerDiffersError, compare
from transformers_suite.refusals import Refusal, read_refusals
from transformers_suite.run import Outcome, read
from transformers_suite.verdict import needing_stock_run, summary, verdict_of

VERSION = metadata.version("transformers")
ATTENTIONS = Refusal("*attentions", "UnsupportedError", "output_attentions", "attentions")
KEYS = Refusal("*::test_cache_keys", "HiddenTensorError", "as one tensor", "keys")
TOY = "tests/models/toy/test_modeling_toy.py::ToyModelTest::"


def write_list(file: Path, *refusals: Refusal) -> Path:
    lines = ["".join(f"{name} = {json.dumps(text)}\n" for name, text in vars(entry).items()) for entry in refusals]
    file.write_text("".join(f"[[refusal]]\n{text}" for text in lines))
    return file


class Ran:
    """The whole suite, run once."""

    def __init__(self, folder: Path) -> None:
        self.build = folder / "build"
        checkout = make_checkout(folder / "checkout", VERSION)
        listed = write_list(folder / "list.toml", ATTENTIONS, KEYS)
        arguments = ["--tests", str(checkout), "--build", str(self.build), "--refusals", str(listed)]
        self.code = main([*arguments, "--processes", "0", "--seconds", "10"])
        logs = self.build / f"test-transformers-{VERSION}"
        self.tree = logs / "tree"
        self.ours, self.stock = read(logs / "lavakv.jsonl"), read(logs / "stock.jsonl")

    def verdict(self, *refusals: Refusal):
        return verdict_of(self.ours, self.stock, refusals)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers_suite.__main__.test_packages", lambda _: [])
        yield Ran(tmp_path_factory.mktemp("suite"))


def test_our_cache_takes_part_and_answers_are_compared(ran: Ran) -> None:
    plain = ("test_generate", "test_generate_sampled", "test_generate_beams", "test_generate_of_its_own")
    for name in (*plain, "test_cache_of_a_test", "test_cache_of_a_forward"):
        assert ran.ours[TOY + name].outcome == "passed", name
        assert ran.ours[TOY + name].caches > 0, name
    assert ran.ours[TOY + "test_generate"].compared == 1
    assert ran.ours[TOY + "test_generate_sampled"].compared == 2


def test_what_asks_for_another_cache_gets_it(ran: Ran) -> None:
    found = ran.ours[TOY + "test_generate_with_static_cache"]
    assert (found.outcome, found.caches) == ("passed", 0)


def test_both_runs_draw_the_same(ran: Ran) -> None:
    assert (ran.tree / "drawn-lavakv").read_text() == (ran.tree / "drawn-stock").read_text()


def test_only_what_is_selected_runs(ran: Ran) -> None:
    assert TOY + "test_unrelated" not in ran.ours


def test_the_faults_are_those_that_stock_passes(ran: Ran) -> None:
    verdict = ran.verdict(ATTENTIONS, KEYS)
    names = {"test_cache_class", "test_cache_skips_ours", "test_generate_stops_the_world", "test_generate_drawn"}
    assert set(verdict.faults) == {TOY + name for name in names}
    assert "AssertionError" in verdict.faults[TOY + "test_cache_class"]
    assert "skipped with a LavaCache (passed without)" in verdict.faults[TOY + "test_cache_skips_ours"]
    assert "TimeLimitError: over 10.0 s" in verdict.faults[TOY + "test_generate_stops_the_world"]
    assert ran.code == 1


def test_failures_that_are_not_ours(ran: Ran) -> None:
    verdict = ran.verdict(ATTENTIONS, KEYS)
    others = {"stock_fails": 1, "hub": 1, "skipped": 1, "uncollected": 1, "refused": 2, "passed": 6, "passed_stock": 1}
    assert {name: verdict.counts[name] for name in others} == others
    assert "1  E   ModuleNotFoundError: No module named 'a_package_that_is_not_here'" in summary(verdict)


def test_a_refusal_that_is_not_listed_is_a_fault(ran: Ran) -> None:
    stock = {**ran.stock, TOY + "test_cache_keys": Outcome()}
    verdict = verdict_of(ran.ours, stock, [ATTENTIONS])
    assert "unlisted refusal: HiddenTensorError" in verdict.faults[TOY + "test_cache_keys"]
    assert TOY + "test_cache_keys" in needing_stock_run(ran.ours, [ATTENTIONS])
    assert TOY + "test_cache_keys" not in needing_stock_run(ran.ours, [ATTENTIONS, KEYS])


@pytest.mark.parametrize(
    "entry",
    [
        Refusal("*attentions", "InputError", "output_attentions", "the wrong class"),
        Refusal("*attentions", "UnsupportedError", "num_lasers", "the wrong text"),
        Refusal("*keys", "UnsupportedError", "output_attentions", "the wrong tests"),
    ],
)
def test_an_entry_accepts_only_its_own(ran: Ran, entry: Refusal) -> None:
    verdict = verdict_of(ran.ours, {**ran.stock, TOY + "test_generate_attentions": Outcome()}, [entry])
    assert TOY + "test_generate_attentions" in verdict.faults
    assert verdict.counts["refused"] == 0


def test_an_entry_that_nothing_ends_in_can_be_removed(ran: Ran) -> None:
    stale = Refusal("*::test_generate", "UnsupportedError", "generate", "it works now")
    elsewhere = Refusal("*/llama/*", "UnsupportedError", "x", "no such test ran")
    not_ours = Refusal("*static*", "UnsupportedError", "x", "our cache takes no part")
    verdict = ran.verdict(ATTENTIONS, KEYS, stale, elsewhere, not_ours)
    assert verdict.stale == [stale]
    assert "Can be removed" in summary(verdict)
    assert verdict.as_dict()["stale"] == ["*::test_generate: generate"]


def test_a_part_of_the_tests_says_nothing_about_entries_for_all(ran: Ran) -> None:
    anywhere = Refusal("*", "UnsupportedError", "nobody says this", "any test may")
    assert verdict_of(ran.ours, ran.stock, [ATTENTIONS, KEYS, anywhere]).stale == [anywhere]
    assert verdict_of(ran.ours, ran.stock, [ATTENTIONS, KEYS, anywhere], complete=False).stale == []


def test_a_run_without_faults_passes_and_one_without_our_cache_does_not() -> None:
    assert not verdict_of({"a": Outcome(caches=1)}, {}, []).failed
    assert verdict_of({"a": Outcome()}, {}, []).failed
    assert verdict_of({}, {}, []).failed


def test_a_dead_process_is_a_fault() -> None:
    died = Outcome("failed", [["WorkerDied", "", "the process that ran it ended"]])
    assert verdict_of({"a": Outcome(caches=1), "b": died}, {"b": Outcome()}, []).faults.keys() == {"b"}
    assert not verdict_of({"a": Outcome(caches=1), "b": died}, {"b": died}, []).failed


def test_the_list_can_be_read() -> None:
    found = read_refusals()
    assert found
    assert all(all(vars(entry).values()) for entry in found)


def test_only_errors_of_ours_and_assertions_can_be_listed(tmp_path: Path) -> None:
    wants_a_class = Refusal("*class", "AssertionError", "not true", "wants a DynamicCache")
    assert read_refusals(write_list(tmp_path / "list", wants_a_class)) == (wants_a_class,)
    with pytest.raises(ValueError, match="KeyError is not an error of lavakv"):
        read_refusals(write_list(tmp_path / "list", Refusal("*", "KeyError", "x", "hides what it likes")))


def test_an_assertion_of_ours_is_no_assertion() -> None:
    """A refusal is known by its own class, whatever it derives from."""
    entry = Refusal("*", "AssertionError", "", "too wide")
    assert not entry.accepts("a", Outcome("failed", [["InputError", "InputError", "x"]]))
    assert entry.accepts("a", Outcome("failed", [["AssertionError", "", "x"]]))


def steps(*changes: float) -> list[torch.Tensor]:
    """Logits of steps, float32 `[1, 3]`, the first of each step changed by so much."""
    return [torch.tensor([[1.0 + change, 2.0, -4.0]]) for change in changes]


def test_answers_are_compared_by_their_logits() -> None:
    tokens = torch.tensor([[5, 1, 1]])
    compare(tokens, tokens, steps(0, 1e-4), steps(0, 0))
    with pytest.raises(AnswerDiffersError, match=r"logits of step 1 are 1\.0e-02"):
        compare(tokens, tokens, steps(0, 1e-2), steps(0, 0))
    with pytest.raises(AnswerDiffersError, match="step 0"):
        compare(tokens, tokens, steps(math.nan, 0), steps(0, 0))
    with pytest.raises(AnswerDiffersError, match="with a LavaCache"):
        compare(tokens, tokens, steps(0), steps(0, 0))


def test_answers_are_compared_as_far_as_they_are_of_one_text() -> None:
    parted = torch.tensor([[5, 0, 1]]), torch.tensor([[5, 1, 1]])
    compare(*parted, steps(0, 1), steps(0, 0))
    with pytest.raises(AnswerDiffersError, match="step 0"):
        compare(*parted, steps(1, 0), steps(0, 0))


def test_answers_without_logits_are_compared_by_their_tokens() -> None:
    tokens = torch.tensor([[5, 0, 1]])
    compare(tokens, tokens, [], [])
    with pytest.raises(AnswerDiffersError):
        compare(tokens, tokens + 1, [], [])
