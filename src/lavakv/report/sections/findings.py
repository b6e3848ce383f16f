"""The results in a few sentences, which claim no more than the intervals allow."""

from __future__ import annotations

from lavakv.evaluation.bootstrap import FEW, LEVEL, Estimate
from lavakv.report.analysis import Analysis
from lavakv.report.configuration import Configuration
from lavakv.report.numbers import interval, percent, plural, score, signed
from lavakv.report.sections.cost import Costs


def findings(analysis: Analysis, costs: Costs) -> list[str]:
    """Average scores, and the best policy at each budget."""
    configurations, sentences = analysis.configurations, []
    tasks = plural(len(analysis.boards), "task")
    for full in configurations.full:
        result = analysis.score(full)
        if result.known:
            name = "The full cache" if len(configurations.modes) == 1 else f"The full cache ({full.mode})"
            prompts = plural(analysis.num_examples, "prompt")
            sentences.append(f"{name} scores {_with_interval(result)} on average over {tasks}, {prompts}.")
    shares = {cost.configuration: cost.share for cost in costs.rows}
    sentences += [sentence for budget in configurations.budgets if (sentence := _at_budget(analysis, budget, shares))]
    return sentences


def _at_budget(analysis: Analysis, budget: tuple[str, str], shares: dict[Configuration, float]) -> str | None:
    own = [c for c in analysis.configurations.all if (c.budget, c.mode) == budget and not c.is_full]
    results = {configuration: analysis.score(configuration) for configuration in own}
    known = [configuration for configuration in own if results[configuration].known]
    if not known:
        return None
    best = max(known, key=lambda configuration: results[configuration].mean)
    kept, name = analysis.configurations.kept[best], analysis.configurations.budget_name(*budget)
    text = f"At {name} ({percent(kept)} of the prompt kept, {percent(shares[best])} of the memory), "
    text += f"{best.policy} scores {'highest, ' if len(known) > 1 else ''}{score(results[best].mean)}"
    full = analysis.full_of(best)
    gap = None if full is None else analysis.difference(best, full)
    if gap is not None and gap.known:
        text += f", {signed(gap.mean)} ({interval(gap, signs=True)}) from the full cache"
    return f"{text}{_lead(analysis, best, known)}."


def _lead(analysis: Analysis, best: Configuration, known: list[Configuration]) -> str:
    """Whether the best policy's lead over the baseline is significant, or the baseline's over the others."""
    others = [c for c in known if analysis.baseline_of(c) is not None]
    baseline = next((c for c in known if c.policy == analysis.baseline), None)
    if baseline is None or not others:
        return ""
    if best != baseline:
        lead = analysis.difference(baseline, best)
        is_significant = lead is not None and lead.holds
        verdict = "is significant" if is_significant else "is not significant"
        return f"; its lead over {baseline.policy} {verdict}"
    leads = {other: analysis.difference(baseline, other) for other in others}
    held = [other.policy for other, lead in leads.items() if lead is not None and lead.holds]
    if not held:
        return "; its lead over the others is not significant"
    rest = "" if len(held) == len(others) else ", not over the others"
    return f"; its lead is significant over {', '.join(held)}{rest}"


def cautions(analysis: Analysis) -> list[str]:
    """Limits of the results: few examples, missing, repeated or unscored records."""
    run, sentences = analysis.run, []
    sizes = [len(board.examples) for board in analysis.boards]
    few = sum(size < FEW for size in sizes)
    if few:
        sentences.append(
            f"{plural(few, 'task')} of {len(sizes)} {'has' if few == 1 else 'have'} fewer than {FEW} prompts: "
            f"{LEVEL} % intervals are too narrow there, and the scores are not comparable with published ones."
        )
    expected = len(analysis.configurations.all) * analysis.num_examples
    if len(run.records) < expected:
        sentences.append(
            f"The run is unfinished or prompts failed: it has {len(run.records):,} of {expected:,} records. "
            "Differences use only prompts that both configurations answered."
        )
    if run.is_torn:
        sentences.append("The last line of the records is incomplete; it is skipped.")
    if run.num_repeated:
        sentences.append(f"{plural(run.num_repeated, 'repeated record')}: only the first of each counts.")
    unscored = sum(record["score"] is None for record in run.records)
    if unscored:
        sentences.append(f"{plural(unscored, 'record')} without a score; not counted.")
    if not analysis.configurations.full:
        sentences.append("This run does not include the full cache, so nothing is compared with it.")
    return sentences


def _with_interval(result: Estimate) -> str:
    return f"{score(result.mean)} ({interval(result)})"
