"""What was run, in words: prompts and versions of a model, limits of the results, and options of the runs."""

from __future__ import annotations

from collections.abc import Sequence

from lavakv.report.analysis import Analysis
from lavakv.report.policies.runs import ModelRuns
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
    about, prompts = analysis.run.about, []
    for own in by_group(analysis.boards):
        tasks = ", ".join(f"{board.short} {len(board.examples)}" for board in own)
        prompts.append(f"{group_name(own)}: {tasks}")
    tokens = [record["prompt_tokens"] for record in analysis.run.records]
    versions = about.get("versions") or {}
    how = ", ".join(f"{name} {versions[name]}" for name in ("lavakv", "torch", "transformers") if versions.get(name))
    return [
        f"{analysis.num_examples} prompts of {min(tokens):,} to {max(tokens):,} tokens ({'; '.join(prompts)})",
        f"{about.get('dtype', 'unknown dtype')} on {about.get('device', 'an unknown device')}, {how}",
    ]


def cautions(model: ModelRuns, benchmark: str) -> list[str]:
    """Limits of one model's results on one benchmark, as lines of text.

    Args:
        model: with the runs of this benchmark alone.
        benchmark: its name.
    """
    analysis, run = model.analysis, model.analysis.run
    expected = len(analysis.configurations.all) * analysis.num_examples
    found = []
    if len(run.records) < expected:
        found.append(
            f"{model.name}, {benchmark}: unfinished, or policies differ between parts ({len(run.records):,} of "
            f"{expected:,} records); tables leave out policies that a task lacks."
        )
    dtypes = sorted({str(record["run"].get("dtype", "unknown")) for record in run.records})
    if len(dtypes) > 1:
        found.append(
            f"{model.name}, {benchmark}: records in {' and '.join(dtypes)}; differences between policies may be the "
            "dtypes'."
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
