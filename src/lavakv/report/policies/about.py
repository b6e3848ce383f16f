"""What was run, in words: prompts and versions of a model, limits of the results, and options of the runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lavakv.report.analysis import Analysis
from lavakv.report.policies.runs import BenchmarkRuns
from lavakv.report.policies.standing import group_name
from lavakv.report.sections.tables import by_group

_MIN_SCORE = 5  # of the full cache, below which a share of it means little
_OPTIONS = {
    "lengths": "generated prompts of {} tokens",
    "max_prompt_tokens": "data sets' prompts cut in the middle to {} tokens",
    "max_new_tokens": "answers of at most {} tokens",
    "kl": "divergence over {} positions",
}


def about_model(analysis: Analysis) -> list[str]:
    """A model's prompts, and how it ran, as lines of text."""
    prompts = []
    for own in by_group(analysis.boards):
        tasks = ", ".join(f"{board.short} {len(board.examples)}" for board in own)
        prompts.append(f"{group_name(own)}: {tasks}")
    tokens = [record["prompt_tokens"] for record in analysis.run.records]
    return [
        f"{analysis.num_examples} prompts of {min(tokens):,} to {max(tokens):,} tokens ({'; '.join(prompts)})",
        "; ".join(dict.fromkeys(_how(record["run"]) for record in analysis.run.records)),
    ]


def _how(about: Mapping[str, Any]) -> str:
    """Dtype, device and versions."""
    versions = about.get("versions") or {}
    named = [f"{name} {versions[name]}" for name in ("lavakv", "torch", "transformers") if versions.get(name)]
    return ", ".join([f"{about.get('dtype', 'unknown dtype')} on {about.get('device', 'an unknown device')}", *named])


def cautions(runs: BenchmarkRuns) -> list[str]:
    """Limits of the results on one benchmark, as lines of text."""
    found = list(runs.notes)
    policies = [model.analysis.configurations.policies for model in runs.models]
    some = [
        name
        for name in dict.fromkeys(name for own in policies for name in own)
        if not all(name in own for own in policies)
    ]
    if some:
        found.append(f"{runs.name}: not run on every model, and only in the models' own tables: {', '.join(some)}.")
    for model in runs.models:
        analysis = model.analysis
        dtypes = sorted({str(record["run"].get("dtype", "unknown")) for record in analysis.run.records})
        if len(dtypes) > 1:
            found.append(
                f"{model.name}, {runs.name}: records in {' and '.join(dtypes)}; differences between policies may be "
                "the dtypes'."
            )
        for full in analysis.configurations.full:
            for own in by_group(analysis.boards):
                if analysis.score(full, own).mean < _MIN_SCORE:
                    found.append(
                        f"{model.name}, {full.mode}: the full cache scores {analysis.score(full, own).mean:.1f} on "
                        f"{group_name(own)}, so shares there mean little."
                    )
    return found


def options_of(analyses: Sequence[Analysis]) -> str:
    """Limits of prompts and answers that the runs were given by hand, as a sentence; or empty."""
    found: dict[str, set[str]] = {}
    for analysis in analyses:
        for record in analysis.run.records:
            arguments, passed = record["run"].get("arguments") or {}, record["run"].get("passed") or []
            for name in _OPTIONS.keys() & arguments.keys() & set(passed):
                value = arguments[name]
                own = value if isinstance(value, list) else [value]
                found.setdefault(name, set()).add(" and ".join(f"{each:,}" for each in own))
    parts = [text.format(" or ".join(sorted(found[name]))) for name, text in _OPTIONS.items() if name in found]
    return f"{'; '.join(parts)}.".capitalize() if parts else ""
