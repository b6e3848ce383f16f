"""Named settings for `lavakv eval --preset`, each of which an option overrides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lavakv.errors import InputError
from lavakv.tasks.needle.task import PAPER_DEPTHS, PAPER_LENGTHS

_ENGLISH_AND_CHINESE = (
    "narrativeqa", "qasper", "multifieldqa_en", "multifieldqa_zh", "hotpotqa", "2wikimqa", "musique", "dureader",
    "gov_report", "qmsum", "multi_news", "vcsum", "trec", "triviaqa", "samsum", "lsht", "passage_count",
    "passage_retrieval_en", "passage_retrieval_zh", "lcc", "repobench-p",
)  # fmt: skip
_RULER = (
    "niah_single_1", "niah_single_2", "niah_single_3", "niah_multikey_1", "niah_multikey_2", "niah_multikey_3",
    "niah_multivalue", "niah_multiquery", "vt", "cwe", "fwe",
)  # fmt: skip
_INFINITEBENCH = (
    "kv_retrieval", "longbook_sum_en", "longbook_choice_en", "longbook_qa_en", "longdialogue_qa_en", "math_find",
    "code_run", "code_debug",
)  # fmt: skip
_ABLATION = (
    "lcc", "repobench-p", "gov_report", "multi_news", "qasper", "multifieldqa_en", "hotpotqa", "2wikimqa",
    "passage_retrieval_en",
)  # fmt: skip
_METHODS = ("lava", "snapkv", "pyramidkv", "ada-snapkv", "ada-pyramidkv", "cake", "vatp")
_BUDGETS = (128, 256, 512, 1024)
_MODEL = "mistralai/Mistral-7B-Instruct-v0.2"


@dataclass(frozen=True, slots=True)
class Preset:
    """A named evaluation.

    Attributes:
        summary: one line about it.
        settings: fields of `EvalSettings`.
    """

    summary: str
    settings: Mapping[str, Any] = field(default_factory=dict)


def _paper(tasks: tuple[str, ...], **more: Any) -> dict[str, Any]:
    return {"model": _MODEL, "tasks": tasks, "policies": _METHODS, "budgets": _BUDGETS, "dtype": "bfloat16", **more}


PRESETS: Mapping[str, Preset] = {
    "ablation": Preset(
        "the paper's two insights: layer budgets for generation, head budgets for extraction",
        {
            "tasks": (*(f"longbench_{name}" for name in _ABLATION), "ruler_niah_multikey_1"),
            "policies": ("lava", "lava-uniform-layers", "lava-uniform-heads"),
            "budgets": (128,),
            "lengths": (4096,),
        },
    ),
    "paper-longbench": Preset(
        "the paper's LongBench table: 21 tasks on a 7B model (a GPU and the hub)",
        _paper(tuple(f"longbench_{name}" for name in _ENGLISH_AND_CHINESE)),
    ),
    "paper-ruler": Preset(
        "RULER as in the paper: 11 tasks at 4k, 8k and 16k tokens on a 7B model (a GPU)",
        _paper(tuple(f"ruler_{name}" for name in _RULER), lengths=(4096, 8192, 16384)),
    ),
    "paper-needle": Preset(
        "Needle in a Haystack as in the paper: ten depths, up to 31,400 tokens, on a 7B model (a GPU)",
        _paper(
            ("needle_published",),
            lengths=PAPER_LENGTHS,
            depths=PAPER_DEPTHS,
            budgets=(128,),
        ),
    ),
    "paper-infinitebench": Preset(
        "InfiniteBench as in the paper, prompts up to the model's window, on a 7B model (a large GPU and the hub)",
        _paper(tuple(f"infinitebench_{name}" for name in _INFINITEBENCH), max_prompt_tokens=128_000),
    ),
}


def get_preset(name: str) -> Preset:
    """The preset of that name.

    Raises:
        InputError: there is none.
    """
    if name not in PRESETS:
        fix = "Choose one of these, or give --tasks and --budgets."
        raise InputError("--preset", expected=f"one of {', '.join(PRESETS)}", got=repr(name), fix=fix)
    return PRESETS[name]
