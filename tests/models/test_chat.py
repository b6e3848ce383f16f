"""One rule for chat templates: when one is used, and the date it tells."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from lavakv.evaluation.encode import encode, encode_parts
from lavakv.evaluation.prompt_maker import PromptMaker
from lavakv.evaluation.settings import EvalSettings
from lavakv.models.chat import ChatTemplate
from lavakv.tasks import Example, TaskSettings, get_task
from lavakv.tasks.generated import Draft, token_count
from tests.cli.conftest import make_model
from tests.evaluation import madeup

ASKS_FOR_A_DATE = "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
TELLS_THE_DATE = {
    "given": ASKS_FOR_A_DATE + "Today is {{ date_string }}. <user> {{ messages[0]['content'] }} <assistant>",
    "asked for": "Today is {{ strftime_now('%d %b %Y') }}. <user> {{ messages[0]['content'] }} <assistant>",
}


@pytest.fixture
def tokenizer(tmp_path: Path):
    return AutoTokenizer.from_pretrained(make_model(tmp_path))


@pytest.mark.parametrize("way", TELLS_THE_DATE)
def test_the_date_is_the_same_on_any_day(way, tokenizer) -> None:
    tokenizer.chat_template = TELLS_THE_DATE[way]
    expected = "Today is 26 Jul 2024. <user> word1 <assistant>"
    assert ChatTemplate(tokenizer).wrap("word1") == expected
    assert ChatTemplate(tokenizer).around("word1 ") == ("Today is 26 Jul 2024. <user> word1 ", " <assistant>")


def test_the_clock_s_formats_and_white_space_stay(tokenizer) -> None:
    template = "\n{% set now = strftime_now('%Y-%m-%d, %B %A') %}\n {{ now }} {{ messages[0]['content'] }}\n"
    tokenizer.chat_template = template
    told = ChatTemplate(tokenizer).wrap("word1")
    tokenizer.chat_template = template.replace("strftime_now('%Y-%m-%d, %B %A')", "'2024-07-26, July Friday'")
    assert told == ChatTemplate(tokenizer).wrap("word1") == "\n 2024-07-26, July Friday word1"


def test_without_a_template_nothing_goes_around(tokenizer) -> None:
    without = ChatTemplate(tokenizer, use=False)
    tokenizer.chat_template, template = None, tokenizer.chat_template
    for plain in (without, ChatTemplate(tokenizer)):
        assert not plain.is_used
        assert plain.wrap("word1") == "word1"
        assert plain.around("word1") == ("word1", "")
    tokenizer.chat_template = template
    assert ChatTemplate(tokenizer).is_used


@pytest.mark.parametrize("chat", [True, False])
def test_all_commands_make_the_same_prompt(chat, tokenizer) -> None:
    """generate by `encode`, compare and inspect by `encode_parts`, eval by `PromptMaker`, generated tasks by length."""
    tokenizer.chat_template = TELLS_THE_DATE["asked for"]
    text, question = "word1 word2 word3 ", "word7 word8"
    generate = encode(tokenizer, text + question, chat=chat)[0].tolist()
    assert encode_parts(tokenizer, text + question, [], chat=chat)[0][0].tolist() == generate
    context, (asked,) = encode_parts(tokenizer, text.strip(), [question], chat=chat)
    assert [*context[0].tolist(), *asked[0].tolist()] == generate
    config = madeup.load(str(tokenizer.name_or_path), dtype="float32", device="cpu").model.config
    example = Example("echo", "e0", text, question, ("word1",))
    for mode in ("query-aware", "query-agnostic"):
        settings = EvalSettings(model="m", tasks=("echo",), budgets=(20,), chat=chat, mode=mode)
        prompt = PromptMaker(settings, tokenizer, config).make(madeup.echo(), example)[0]
        assert [*prompt.context.tolist(), *prompt.question.tolist()] == generate
    assert token_count(tokenizer, Draft(text, question, ()), chat) == len(generate)


def test_generated_prompts_leave_space_for_a_template_only_where_one_is_used(tokenizer) -> None:
    tokenizer.chat_template = "word1 " * 100 + "{{ messages[0]['content'] }}"
    task, contexts = get_task("ruler_niah_single_1"), []
    for chat in (True, False):
        (example,) = task.examples(TaskSettings(tokenizer=tokenizer, lengths=(800,), limit=1, chat=chat))
        draft = Draft(example.context, example.question, (), example.answer_prefix)
        assert 0 <= 800 - task.max_new_tokens - token_count(tokenizer, draft, chat) < 40  # one more line of noise
        contexts.append(example.context)
    assert len(contexts[0]) < len(contexts[1])


def test_who_may_use_the_template() -> None:
    def uses(model: str, **options: object) -> bool:
        return EvalSettings(model=model, tasks=("echo",), budgets=(20,), **options).uses_chat(madeup.echo())

    assert uses("smollm2")
    assert not uses("smollm2", chat=False)
    assert not uses("mistralai/Mistral-7B-Instruct-v0.2")
    assert uses("mistralai/Mistral-7B-Instruct-v0.2", protocol="harness")
