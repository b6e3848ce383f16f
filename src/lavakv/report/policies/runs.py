"""Several runs, merged by model: parts of one comparison, evaluated into folders of their own or kept as tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from lavakv.errors import InputError
from lavakv.evaluation.policy_costs import PolicyCost, read_costs
from lavakv.evaluation.record import Record
from lavakv.evaluation.record_keys import PromptKey, RecordKey
from lavakv.report.analysis import Analysis
from lavakv.report.policies.agreement import agreement_of, with_agreement
from lavakv.report.policies.comparable import Comparable, comparable
from lavakv.report.policies.score_tables import read_tables
from lavakv.report.run import Run, read_run
from lavakv.report.sections.about import model_name

FALLBACK = "lava"  # the baseline where the one that was asked for did not run


class ModelRuns(NamedTuple):
    """All runs of one model.

    Attributes:
        name: the model's.
        analysis: their records together, resampled.
        costs: what each policy costs alone, by name; empty where it was not measured.
        is_from_tables: whether no folder was given of it.
    """

    name: str
    analysis: Analysis
    costs: dict[str, PolicyCost]
    is_from_tables: bool = False

    @property
    def table(self) -> tuple[str, Run, list[PolicyCost]]:
        """What `write_tables` takes."""
        return self.name, self.analysis.run, list(self.costs.values())

    def by_agreement(self) -> ModelRuns:
        """The same with each answer's agreement with the full cache's as its score; none where that is not known."""
        records: list[Record] = [{**record, "score": agreement_of(record)} for record in self.analysis.run.records]
        return self._replace(analysis=Analysis(replace(self.analysis.run, records=records), self.analysis.baseline))


class BenchmarkRuns(NamedTuple):
    """One benchmark's records alone.

    Attributes:
        name: the benchmark's.
        models: that were run on it, each with the prompts and policies that compare.
        baseline: the policy that others are compared with; None if no policy ran on all models.
        notes: what was left out, as lines of text.
    """

    name: str
    models: list[ModelRuns]
    baseline: str | None
    notes: list[str]


def by_benchmark(models: Sequence[ModelRuns]) -> list[BenchmarkRuns]:
    """Each benchmark's records, benchmarks in the order of the models."""
    names = dict.fromkeys(board.benchmark for model in models for board in model.analysis.boards)
    return [_benchmark(name, models) for name in names]


def _benchmark(name: str, models: Sequence[ModelRuns]) -> BenchmarkRuns:
    found: list[tuple[ModelRuns, list[Record]]] = []
    notes: list[str] = []
    for model in models:
        own = [record for record in model.analysis.run.records if record["benchmark"] == name]
        if own:
            kept = comparable(own)
            found.append((model, kept.records))
            notes += _notes(f"{model.name}, {name}", kept)
    shared = [
        policy
        for policy in models[0].analysis.configurations.policies
        if all(any(record["policy"] == policy for record in records) for _, records in found)
    ]
    asked = models[0].analysis.baseline
    baseline = next((policy for policy in (asked, FALLBACK, *shared) if policy in shared), None)
    alone = [
        model._replace(analysis=Analysis(replace(model.analysis.run, records=records), baseline))
        for model, records in found
    ]
    return BenchmarkRuns(name, alone, baseline, notes)


def _notes(place: str, kept: Comparable) -> list[str]:
    found = []
    if kept.num_dropped:
        found.append(
            f"{place}: left out are {kept.num_dropped} prompts, each mode counted, that less than half of the policies "
            "and budgets have answered, as in an unfinished run."
        )
    if kept.dropped:
        found.append(f"{place}: left out, as they lack some of the prompts: {', '.join(kept.dropped)}.")
    return found


class _Source(NamedTuple):
    """One run, where it comes from, and the costs that belong to it."""

    place: Path
    run: Run
    costs: list[PolicyCost]


def read_models(folders: Sequence[Path], baseline: str | None, tables: Path | None = None) -> list[ModelRuns]:
    """Read runs and merge them by model, in the order of the folders. Of a repeated record the first counts.

    Costs are read from the folder of each run and from the one around it. Tables come last: what the runs measured
    again takes the place of what they hold. Models are then sorted by name, whichever were run again.

    Args:
        folders: results folders of `lavakv eval`.
        baseline: the policy that others are compared with; `lava`, or the first one, if None.
        tables: folder of tables of earlier runs' scores, which need not be there; or None.

    Raises:
        LavaError: a folder that cannot be read, runs of one model that do not belong together, or no such policy.
    """
    by_model: dict[str, list[_Source]] = {}
    for folder in folders:
        run = read_run(folder)
        run = replace(run, records=with_agreement(run.records))
        found = _Source(folder, run, [*_costs(folder)])
        by_model.setdefault(_name(run), []).append(found)
    if tables is None:
        return [_model(name, runs, baseline) for name, runs in by_model.items()]
    was_run = set(by_model)
    for table in read_tables(tables):
        by_model.setdefault(table.run.name, []).append(_Source(tables / table.run.name, table.run, table.costs))
    models = [_model(name, by_model[name], baseline) for name in sorted(by_model)]
    return [model._replace(is_from_tables=model.name not in was_run) for model in models]


def _name(run: Run) -> str:
    return model_name(str(run.about.get("model") or "unknown model"))


def _model(name: str, runs: Sequence[_Source], baseline: str | None) -> ModelRuns:
    found: dict[RecordKey, Record] = {}
    prompts: dict[tuple[PromptKey, str], tuple[str, str]] = {}
    policies: dict[str, None] = {}
    repeated = 0
    for place, run, _ in runs:
        for record in run.records:
            key = RecordKey.of(record)
            own = record["prompt_hash"], record["task_version"]
            if prompts.setdefault((key.prompt, key.mode), own) != own:
                raise InputError(
                    "run", expected="runs of the same prompts and tasks",
                    got=f"another prompt for {_named(key)} in {place}, or another version of the task",
                    fix="Give runs with the same data, seed and tokenizer, by one version of lavakv.",
                )  # fmt: skip
            repeated += key in found
            found.setdefault(key, record)
        policies.update(dict.fromkeys(_listed(run)))
    merged = Run(
        name, list(found.values()), {"policies": list(policies)}, repeated, any(source.run.is_torn for source in runs)
    )
    costs = {cost.policy: cost for source in reversed(runs) for cost in source.costs}
    return ModelRuns(name, Analysis(merged, baseline), costs)


def _costs(folder: Path) -> Iterator[PolicyCost]:
    for place in (folder.resolve().parent, folder.resolve()):
        yield from read_costs(place)


def _listed(run: Run) -> list[str]:
    listed = run.settings.get("policies")
    return [str(name) for name in listed if name != "full cache"] if isinstance(listed, list) else []


def _named(key: RecordKey) -> str:
    return ", ".join(str(part) for part in (*key.prompt, key.mode) if part is not None)
