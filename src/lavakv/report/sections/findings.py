"""The report in a few sentences, none of which claims more than its interval."""

from __future__ import annotations

from lavakv.evaluation.bootstrap import FEW, LEVEL, Estimate
from lavakv.report.analysis import Analysis
from lavakv.report.contender import Contender
from lavakv.report.numbers import interval, percent, plural, score, signed
from lavakv.report.sections.cost import Costs


def findings(analysis: Analysis, costs: Costs) -> list[str]:
    """What a reader in a hurry should know."""
    field, said = analysis.field, []
    tasks = plural(len(analysis.boards), "task")
    for full in field.full:
        result = analysis.score(full)
        if result.known:
            name = "The full cache" if len(field.modes) == 1 else f"The full cache ({full.mode})"
            prompts = plural(analysis.num_examples, "prompt")
            said.append(f"{name} scores {_with_interval(result)} on average over {tasks}, {prompts}.")
    shares = {cost.contender: cost.share for cost in costs.rows}
    said += [sentence for size in field.budgets if (sentence := _at_budget(analysis, size, shares))]
    return said


def _at_budget(analysis: Analysis, size: tuple[str, str], shares: dict[Contender, float]) -> str | None:
    own = [c for c in analysis.field.contenders if (c.budget, c.mode) == size and not c.is_full]
    results = {contender: analysis.score(contender) for contender in own}
    known = [contender for contender in own if results[contender].known]
    if not known:
        return None
    best = max(known, key=lambda contender: results[contender].mean)
    kept, name = analysis.field.kept[best], analysis.field.budget_name(*size)
    text = f"At {name} ({percent(kept)} of the prompt kept, {percent(shares[best])} of the memory), "
    text += f"{best.policy} scores {'highest, ' if len(known) > 1 else ''}{score(results[best].mean)}"
    full = analysis.full_of(best)
    gap = None if full is None else analysis.difference(best, full)
    if gap is not None and gap.known:
        text += f", {signed(gap.mean)} ({interval(gap, signs=True)}) from the full cache"
    return f"{text}{_lead(analysis, best, known)}."


def _lead(analysis: Analysis, best: Contender, known: list[Contender]) -> str:
    """Does the best one's lead over, or of, the baseline hold?"""
    rivals = [c for c in known if analysis.rival_of(c) is not None]
    baseline = next((c for c in known if c.policy == analysis.baseline), None)
    if baseline is None or not rivals:
        return ""
    if best != baseline:
        lead = analysis.difference(baseline, best)
        holds = lead is not None and lead.holds
        return f"; its lead over {baseline.policy} {'holds' if holds else 'could be chance'}"
    leads = {rival: analysis.difference(baseline, rival) for rival in rivals}
    held = [rival.policy for rival, lead in leads.items() if lead is not None and lead.holds]
    if not held:
        return "; its lead over the others could be chance"
    return (
        f"; its lead holds over {', '.join(held)}{'' if len(held) == len(rivals) else ' and could be chance otherwise'}"
    )


def cautions(analysis: Analysis) -> list[str]:
    """What to keep in mind: few examples, missing, repeated or unscored records."""
    run, said = analysis.run, []
    sizes = [len(board.examples) for board in analysis.boards]
    few = sum(size < FEW for size in sizes)
    if few:
        said.append(
            f"{plural(few, 'task')} of {len(sizes)} {'has' if few == 1 else 'have'} fewer than {FEW} prompts: "
            f"{LEVEL} % intervals are too narrow there, and the scores are not benchmark scores."
        )
    expected = len(analysis.field.contenders) * analysis.num_examples
    if len(run.records) < expected:
        said.append(
            f"The run is not finished, or prompts failed: {len(run.records):,} of {expected:,} records are there. "
            "Differences use only prompts that both sides answered."
        )
    if run.is_torn:
        said.append("The last line of the records was never finished; it is left out.")
    if run.num_repeated:
        said.append(f"{plural(run.num_repeated, 'record')} came again; the first one counts.")
    unscored = sum(record["score"] is None for record in run.records)
    if unscored:
        said.append(f"{plural(unscored, 'record')} without a score: not counted.")
    if not analysis.field.full:
        said.append("The full cache is not in this run: nothing can be compared with it.")
    return said


def _with_interval(result: Estimate) -> str:
    return f"{score(result.mean)} ({interval(result)})"
