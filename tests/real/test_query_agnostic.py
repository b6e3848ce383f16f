"""`lavakv eval --mode query-agnostic` on the real model: the question is asked after the compressed context."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import lavakv
from lavakv.evaluation.executor import SerialExecutor
from lavakv.evaluation.folder import locked
from lavakv.evaluation.prompt import Prompt
from lavakv.evaluation.run import Evaluation
from lavakv.evaluation.settings import EvalSettings
from lavakv.models.load import LoadedModel, load
from lavakv.tasks import get_task

BUDGET, POLICIES = 96, ("lava", "residual")


@pytest.fixture(scope="module")
def loaded(model_dir: Path) -> LoadedModel:
    return load(str(model_dir), dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def asked(loaded: LoadedModel, model_dir: Path, tmp_path_factory) -> tuple[Prompt, dict[str, dict]]:
    """One needle's prompt, and its records by policy."""
    settings = EvalSettings(
        model=str(model_dir), tasks=("needle",), policies=POLICIES, budgets=(BUDGET,), mode="query-agnostic",
        lengths=(500,), depths=(50.0,), dtype="float32",
    )  # fmt: skip
    with locked(tmp_path_factory.mktemp("run")) as folder:
        evaluation = Evaluation(settings, {"needle": get_task("needle")}, SerialExecutor(loaded), folder)
        (prompt,) = evaluation.prompts
        return prompt, {record["policy"]: record for record in evaluation.run()}


def _ids(prompt: Prompt) -> tuple[torch.Tensor, torch.Tensor]:
    return prompt.context.long()[None], prompt.question.long()[None]


def test_the_context_ends_before_the_question(asked, loaded) -> None:
    prompt, records = asked
    context, question = (loaded.tokenizer.decode(ids[0]) for ids in _ids(prompt))
    assert "?" not in context
    assert context + question == loaded.tokenizer.decode(torch.cat(_ids(prompt), dim=1)[0])
    assert question.lstrip().startswith("Answer from the text alone")
    assert question.endswith("<|im_end|>\n<|im_start|>assistant\n")
    for record in records.values():
        assert (record["mode"], record["prompt_tokens"]) == ("query-agnostic", prompt.num_tokens)


def test_the_full_cache_answers_as_transformers_does(asked, loaded) -> None:
    prompt, records = asked
    ids = torch.cat(_ids(prompt), dim=1)
    output = loaded.model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=prompt.max_new_tokens, do_sample=False
    )
    text = loaded.tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)
    assert text.startswith(records["full cache"]["prediction"].rstrip("\n"))


@pytest.mark.parametrize("policy", POLICIES)
def test_what_is_kept_and_said_is_that_of_the_masked_store(policy, asked, loaded) -> None:
    """Context, then question, then one token after the other, in the store that is trivially right."""
    prompt, records = asked
    context, question = _ids(prompt)
    cache = lavakv.LavaCache(loaded.model.config, budget=BUDGET, policy=policy, store="masked")
    record, tokens = records[policy], []
    with lavakv.enabled(loaded.model), torch.no_grad():
        loaded.model(context, past_key_values=cache)
        assert record["head_entries"] == cache.budgets().head_entries[:, 0].tolist()
        step = question
        for _ in range(record["new_tokens"]):
            step = loaded.model(step, past_key_values=cache).logits[:, -1].argmax(dim=-1, keepdim=True)
            tokens.append(int(step))
    assert loaded.tokenizer.decode(tokens, skip_special_tokens=True) == record["prediction"]
    assert record["tokens_per_head"] == BUDGET
    assert record["kept_fraction"] == pytest.approx(BUDGET / context.shape[1])
    assert record["full_kv_bytes"] * BUDGET == record["kv_bytes"] * context.shape[1]
