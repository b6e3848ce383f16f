"""Several runs, merged by model: parts of one comparison that were evaluated into folders of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from lavakv.errors import InputError
from lavakv.evaluation.policy_costs import PolicyCost, read_costs
from lavakv.evaluation.record import Record
from lavakv.evaluation.record_keys import PromptKey, RecordKey
from lavakv.report.analysis import Analysis
from lavakv.report.run import Run, read_run
from lavakv.report.sections.about import model_name


class ModelRuns(NamedTuple):
    """All runs of one model.

    Attributes:
        name: the model's.
        analysis: their records together, resampled.
        costs: what each policy costs alone, by name; empty where it was not measured.
    """

    name: str
    analysis: Analysis
    costs: dict[str, PolicyCost]


def read_models(folders: Sequence[Path], baseline: str | None) -> list[ModelRuns]:
    """Read runs and merge them by model, in the order of the folders. Of a repeated record the first counts.

    Costs are read from the folder of each run and from the one around it.

    Args:
        folders: results folders of `lavakv eval`.
        baseline: the policy that others are compared with; `lava`, or the first one, if None.

    Raises:
        LavaError: a folder that cannot be read, runs of one model that do not belong together, or no such policy.
    """
    by_model: dict[str, list[tuple[Path, Run]]] = {}
    for folder in folders:
        run = read_run(folder)
        by_model.setdefault(model_name(str(run.about.get("model") or "unknown model")), []).append((folder, run))
    return [_model(name, runs, baseline) for name, runs in by_model.items()]


def _model(name: str, runs: Sequence[tuple[Path, Run]], baseline: str | None) -> ModelRuns:
    found: dict[RecordKey, Record] = {}
    hashes: dict[tuple[PromptKey, str], str] = {}
    policies: dict[str, None] = {}
    repeated = 0
    for folder, run in runs:
        for record in run.records:
            key = RecordKey.of(record)
            known = hashes.setdefault((key.prompt, key.mode), record["prompt_hash"])
            if known != record["prompt_hash"]:
                raise InputError(
                    "run", expected="runs of the same prompts", got=f"another prompt for {_named(key)} in {folder}",
                    fix="Give runs with the same data, seed and tokenizer.",
                )  # fmt: skip
            repeated += key in found
            found.setdefault(key, record)
        policies.update(dict.fromkeys(_listed(run)))
    merged = Run(
        name, list(found.values()), {"policies": list(policies)}, repeated, any(run.is_torn for _, run in runs)
    )
    costs = {cost.policy: cost for cost in _costs([folder for folder, _ in runs])}
    return ModelRuns(name, Analysis(merged, baseline), costs)


def _costs(folders: Sequence[Path]) -> Iterator[PolicyCost]:
    places = [place for folder in folders for place in (folder.resolve().parent, folder.resolve())]
    for place in dict.fromkeys(places):
        yield from read_costs(place)


def _listed(run: Run) -> list[str]:
    listed = run.settings.get("policies")
    return [str(name) for name in listed if name != "full cache"] if isinstance(listed, list) else []


def _named(key: RecordKey) -> str:
    return ", ".join(str(part) for part in (*key.prompt, key.mode) if part is not None)
