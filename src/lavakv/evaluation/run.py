"""A run: every prompt through the full cache and every policy and budget, each finished record on disk at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

from lavakv.budgets.spec import DEFAULT_WINDOW, BudgetSpec
from lavakv.errors import ResultsError
from lavakv.evaluation.executor import Assignment, Executor, Part
from lavakv.evaluation.folder import RunFolder
from lavakv.evaluation.prompt import Prompt
from lavakv.evaluation.provenance import provenance
from lavakv.evaluation.record import SCHEMA, Measurement, Provenance, Record, new_record
from lavakv.evaluation.record_keys import PromptKey, RecordKey
from lavakv.evaluation.settings import EvalSettings, with_policies
from lavakv.evaluation.variant import Variant, batches
from lavakv.evaluation.workload import workload
from lavakv.policy.names import window_for
from lavakv.tasks.task import Task

Listener = Callable[[Record], None]
Fitting = Callable[[Sequence[Variant], int], Sequence[Variant]]


class Evaluation:
    """One evaluation in one folder; resumes an earlier one with the same settings.

    A run with other settings is archived once everything has been prepared, so that a mistake moves nothing.

    Args:
        settings: what to compute.
        tasks: the tasks of the settings by name.
        executor: runs the model.
        folder: locked by this process.
        passed: names of the settings that the user gave.
        restart: archive any run in the folder. A run with other settings is archived in any case.
        fitting: which of the variants can read a prompt of so many tokens; the run leaves the others out.

    Raises:
        LavaError: data, prompts, policies or budgets that cannot be used, or a folder of another version's run; no
            record of the folder is touched.

    Attributes:
        prompts: all prompts, longest first; of each example one in each mode.
        skipped: tasks that were left out, with the reason.
        claim: whether the previous run in the folder is resumed or archived.
        finished: records by key.
    """

    def __init__(
        self,
        settings: EvalSettings,
        tasks: Mapping[str, Task],
        executor: Executor,
        folder: RunFolder,
        passed: Sequence[str] = (),
        *,
        restart: bool = False,
        fitting: Fitting | None = None,
    ) -> None:
        self._tasks, self._executor, self._folder = tasks, executor, folder
        for variant in settings.variants():
            variant.new_cache(executor.config)  # finds mistakes before a prompt is read
        self.prompts, self.skipped = workload(settings, tasks, executor.tokenizer, executor.config)
        if fitting is not None:
            usable = fitting(settings.variants(), max((len(prompt.context) for prompt in self.prompts), default=0))
            settings = with_policies(settings, usable)
        self._variants, self._num_positions = settings.variants(), settings.kl
        self._groups = list(batches(self._variants, settings.rows))
        _check_budgets(settings, self.prompts)
        run = provenance(settings, executor.about_model(), passed)
        self.claim = folder.claim(_described(run, tasks, self._variants), restart=restart)
        self._run = self.claim.settings["run"]
        self.finished = folder.records()
        self._check_finished()

    @property
    def num_workers(self) -> int:
        """Prompts that are processed at a time."""
        return self._executor.num_workers

    @property
    def num_records(self) -> int:
        """Records of the whole run."""
        return len(self.prompts) * len(self._variants)

    def waiting(self) -> list[Assignment]:
        """Assignments that are not finished, longest prompts first.

        Variants that are decoded together stay together, also if the run was interrupted while writing their records:
        a different batch composition can change rounding and flip a token.
        """
        left = []
        for _, modes in groupby(self.prompts, key=lambda prompt: prompt.key):
            parts = [Part(prompt, self._waiting_groups(prompt)) for prompt in modes]
            while parts and not parts[-1].groups:
                parts.pop()
            if parts:
                left.append(Assignment(parts, self._num_positions))
        return left

    def _waiting_groups(self, prompt: Prompt) -> list[list[Variant]]:
        return [group for group in self._groups if any(self._key(prompt, each) not in self.finished for each in group)]

    def run(self, listener: Listener | None = None) -> list[Record]:
        """Compute and write the missing records. Returns all of them, in the order of the file.

        Args:
            listener: called with each record once it is on disk.

        Raises:
            LavaError: a prompt or the disk failed; all records finished before are on disk.
        """
        log = self._folder.log()
        try:
            for prompt, measured in self._executor.answers(self.waiting()):
                key = RecordKey(prompt.key, measured.outcome["policy"], measured.outcome["budget"], prompt.mode)
                if key in self.finished:
                    continue
                record = self._record(prompt, measured)
                log.append(record)
                self.finished[key] = record
                if listener is not None:
                    listener(record)
        finally:
            log.close()
        return self._in_order()

    def _record(self, prompt: Prompt, measured: Measurement) -> Record:
        start = time.perf_counter()
        about = prompt.about
        score = self._tasks[about["task"]].score(about["answers"], about["classes"], measured.outcome["prediction"])
        return new_record(about, measured, score, time.perf_counter() - start, self._run)

    def _in_order(self) -> list[Record]:
        """All records by prompt and variant; the file is put in this order where workers left it in another."""
        keys = [self._key(prompt, variant) for prompt in self.prompts for variant in self._variants]
        ordered = [self.finished[key] for key in keys]
        if list(self._folder.records()) != keys:
            self._folder.rewrite(ordered)
        return ordered

    def _check_finished(self) -> None:
        """Raise ResultsError unless the folder's records answer these prompts by these policies and budgets."""
        hashes = {(prompt.key, prompt.mode): prompt.about["prompt_hash"] for prompt in self.prompts}
        ours = {self._key(prompt, variant) for prompt in self.prompts for variant in self._variants}
        for key, record in self.finished.items():
            if hashes.get((key.prompt, key.mode)) != record["prompt_hash"]:
                raise ResultsError(
                    str(self._folder.path), expected="records of the same prompts",
                    got=f"another prompt for {_named(key.prompt)}",
                    fix="The data or the tokenizer changed: give another --out, or --restart for a new run.",
                )  # fmt: skip
            if key not in ours:
                raise ResultsError(
                    str(self._folder.path), expected="records of this run alone",
                    got=f"one of {key.policy}, {key.budget}, {key.mode}, for {_named(key.prompt)}",
                    fix="Remove records of other runs, give another --out, or --restart for a new run.",
                )  # fmt: skip

    @staticmethod
    def _key(prompt: Prompt, variant: Variant) -> RecordKey:
        return RecordKey(prompt.key, variant.label, variant.budget_label, prompt.mode)


def _described(run: Provenance, tasks: Mapping[str, Task], variants: Sequence[Any]) -> dict[str, Any]:
    """What `run.json` holds."""
    return {
        "schema": SCHEMA,
        "tasks": {name: task.version for name, task in tasks.items()},
        "policies": list(dict.fromkeys(variant.label for variant in variants)),
        "budgets": list(dict.fromkeys(variant.budget_label for variant in variants)),
        "run": run,
    }


def _check_budgets(settings: EvalSettings, prompts: Sequence[Prompt]) -> None:
    """Raise BudgetError for a budget within the window of a prompt longer than it."""
    lengths = [len(prompt.context) for prompt in prompts]
    longest = max((window_for(policy, settings.window) for policy in settings.policies), default=DEFAULT_WINDOW)
    for budget in settings.budgets if lengths else ():
        BudgetSpec(budget, window=longest).tokens_per_head(lengths, 0, 1)


def _named(key: PromptKey) -> str:
    return ", ".join(str(part) for part in key if part is not None)
