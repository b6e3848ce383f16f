"""`lavakv policies`: what there is to choose from, and what each needs, looks at and costs."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from lavakv.cli import options
from lavakv.cli.console import print_json, results
from lavakv.cli.loading import starting

_WORDS = {"tokens_per_head": "budget", "output_weight": "weights", "prompt": "all queries"}
_FIELDS = ("needs", "scored_by", "sees_question", "relative_cost", "trained")


def policies(as_json: options.Json = False) -> None:
    """List the policies: what each needs, where its score looks, what it costs, and whether it is trained."""
    with starting():
        from lavakv.policy.registry import policies as names

    records = [_record(name, summary) for name, summary in names().items()]
    if as_json:
        print_json({"policies": records})
        return
    table = Table("policy", "needs", "scored by", "sees question", "cost", "trained", "summary")
    for record in records:
        needs = None if record["needs"] is None else [_WORDS.get(need, need) for need in record["needs"]]
        table.add_row(*map(_cell, {**record, "needs": needs}.values()))
    results.print(table)
    results.print("cost: seconds of scoring and selecting, and of a replay, over those of reading the prompt")


def _record(name: str, summary: str) -> dict[str, Any]:
    """A policy in words; of a plugin that cannot be loaded, its name and the error."""
    from lavakv.errors import PolicyError
    from lavakv.policy.registry import get_policy

    try:
        policy = get_policy(name)
    except PolicyError as error:
        return {"name": name, **dict.fromkeys(_FIELDS), "summary": " ".join(f"cannot be loaded: {error}".split())}
    facts = {field: getattr(policy, field) for field in _FIELDS}
    return {"name": name, **facts, "needs": list(policy.needs), "summary": summary}


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value).replace("_", " ") or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
