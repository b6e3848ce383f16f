"""The settings of an evaluation: everything that decides what it computes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from lavakv.errors import InputError
from lavakv.evaluation.variant import Variant, require_distinct, variants_of
from lavakv.policy.names import window_for
from lavakv.tasks.settings import Half, TaskSettings
from lavakv.tasks.task import Task

Mode = Literal["query-aware", "query-agnostic"]
MODES: tuple[Mode, ...] = ("query-aware", "query-agnostic")
BOTH_MODES = "both"
_LATER = {"kl": 0, "max_new_tokens": None, "half": None}  # settings that older runs lack, which ran with these values
PAPER_PROMPT_TOKENS = 31_500
DEFAULT_ROWS = 8


@dataclass(frozen=True, slots=True)
class EvalSettings:
    """One model on some tasks through some policies and budgets. Two runs with equal settings give equal records.

    Attributes:
        model: as in `lavakv.models.load.load`, like `dtype`, `device` and `attention`.
        tasks: names from `lavakv.tasks.task_names()`.
        policies: names from `lavakv.policies()`; the full cache is always evaluated beside them.
        budgets: mean entries per KV head.
        keep: kept fractions of the prompt, beside the budgets.
        window: observation window, the last compressed tokens: always kept and used for scoring; None for each policy's
            own.
        mode: query-aware, with the question inside the compressed prompt, query-agnostic, with it after, or both,
            from one prefill where the model's layers and the tokenizer allow it.
        protocol: `paper`: middle truncation, official prompts and scores; `harness`: lm-evaluation-harness's own.
        data_dir: local data, or None for the hub.
        limit: first examples of each task, None for all.
        seed: of generated examples.
        lengths: tokens of generated prompts.
        depths: of the needle, in percent.
        haystack: folder of text files for generated prompts, or None for noise.
        max_prompt_tokens: the paper protocol cuts longer prompts in the middle; at most the model's positions.
        chat: wrap prompts in the model's chat template, for tasks that use it.
        skip_broken: leave broken data lines out.
        rows: policy-budget pairs of one prompt that are decoded together, at most.
        kl: positions of the full cache's continuation at which next-token distributions are compared; 0 compares none.
        max_new_tokens: most tokens of any answer, None for what each task allows.
        half: choosing or reporting, for half of each data set's examples; None for all. Generated ones have seeds.
    """

    model: str
    tasks: tuple[str, ...]
    policies: tuple[str, ...] = ("lava",)
    budgets: tuple[int, ...] = ()
    keep: tuple[float, ...] = ()
    window: int | None = None
    mode: str = "query-aware"
    protocol: Literal["paper", "harness"] = "paper"
    data_dir: str | None = None
    limit: int | None = None
    seed: int = 42
    lengths: tuple[int, ...] = ()
    depths: tuple[float, ...] = ()
    haystack: str | None = None
    max_prompt_tokens: int = PAPER_PROMPT_TOKENS
    chat: bool = True
    skip_broken: bool = False
    rows: int = DEFAULT_ROWS
    dtype: str = "auto"
    device: str = "auto"
    attention: str | None = None
    kl: int = 0
    max_new_tokens: int | None = None
    half: str | None = None

    def __post_init__(self) -> None:
        _require_one_of("mode", self.mode, (*MODES, BOTH_MODES))
        _require_one_of("protocol", self.protocol, ("paper", "harness"))
        if self.half is not None:
            _require_one_of("half", self.half, get_args(Half))
        if not self.tasks:
            raise InputError("tasks", expected="at least one", got="none", fix="Give names with --tasks.")
        if not (self.budgets or self.keep):
            raise InputError("budgets", expected="at least one", got="none", fix="Give --budgets or --keep.")
        for name in ("tasks", "policies", "budgets", "keep", "lengths", "depths"):
            require_distinct(name, getattr(self, name))
        for name in ("data_dir", "haystack"):
            _require_folder(name, getattr(self, name))
        if type(self.kl) is not int or self.kl < 0:
            raise InputError(
                "--kl", expected="a whole number of positions", got=str(self.kl), fix="Give e.g. 32, or 0 for none."
            )
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise InputError(
                "--max-new-tokens", expected="at least 1", got=str(self.max_new_tokens),
                fix="Leave it out for what each task allows.",
            )  # fmt: skip
        TaskSettings(limit=self.limit, lengths=self.lengths, depths=self.depths)  # refuses values out of range

    def variants(self) -> list[Variant]:
        """The full cache, then every policy with every budget.

        Raises:
            LavaError: an unknown policy, or a bad budget.
        """
        variants = variants_of(self.policies, self.budgets, self.keep, self.window)
        for variant in variants:
            variant.spec()
        return [Variant(None, window=self.window), *variants]

    @property
    def modes(self) -> tuple[Mode, ...]:
        """The modes to run, query-aware first."""
        return tuple(mode for mode in MODES if self.mode in (mode, BOTH_MODES))

    def uses_chat(self, task: Task) -> bool:
        """True if a task's prompts may be wrapped in the chat template. The paper's scripts never do for Mistral.

        Args:
            task: one of the run's.
        """
        is_bare_mistral = self.protocol == "paper" and "mistral" in self.model.lower()
        return self.chat and task.chat and not is_bare_mistral

    def arguments(self) -> dict[str, Any]:
        """Ready for JSON; without settings that older versions lack, where they change nothing."""
        found = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        windows = {window_for(policy, self.window) for policy in self.policies}
        if len(windows) == 1:  # older versions recorded it
            found["window"] = windows.pop()
        return {name: value for name, value in found.items() if name not in _LATER or value != _LATER[name]}


def with_policies(settings: EvalSettings, variants: Iterable[Variant]) -> EvalSettings:
    """The settings with the policies of some of their variants alone."""
    left = {variant.label for variant in variants}
    return replace(settings, policies=tuple(name for name in settings.policies if name in left))


def _require_one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError(f"--{name}", expected=" or ".join(allowed), got=repr(value), fix=f"Use e.g. {allowed[0]}.")


def _require_folder(name: str, value: str | None) -> None:
    if value is not None and not Path(value).is_dir():
        option = f"--{name.replace('_', '-')}"
        raise InputError(option, expected="a folder", got=f"{value}, which is not one", fix="Check the path.")
