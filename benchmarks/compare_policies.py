"""All policies side by side: recomputes the records of docs/policies-compared.md and draws the page.

Each model gets a folder in --out, with a run of `lavakv eval` for each part (RULER, needles, LongBench), and what each
policy costs, measured alone. An interrupted run resumes. Parts whose data is absent, and policies that cannot serve a
model, are left out by name. The reporting half is used: RULER's and the needles' seed 42, and LongBench's contexts
whose hash is odd; --half choosing takes other seeds and the other contexts.

    make compare-policies ARGS="--data-dir DATA --haystack ESSAYS"
    python benchmarks/compare_policies.py --models smollm2 --parts ruler --limit 3 --policies lava,residual

Two processes may run side by side with the same --out, on other models or other parts; --draw only draws.

The page's own scores are tables in docs/results/policies-compared, which what is measured is added to: a policy that
is new, or that changed, can be measured alone and is drawn beside the others, if it is asked the tables' prompts, with
the same essays. Others, as with another --length, are not drawn, and another prompt under the same name is an error.

    make compare-policies ARGS="--policies mine --models smollm2 --parts ruler --length 2048 --limit 5 \
        --haystack ESSAYS --tasks ruler_niah_single_2,ruler_niah_multikey_1,ruler_niah_multivalue,ruler_niah_multiquery"
    make compare-policies ARGS="--policies mine --models qwen-coder-0.5b --parts ruler --limit 5 \
        --haystack ESSAYS --tasks ruler_niah_multikey_1,ruler_niah_multivalue"
    make compare-policies ARGS="--policies mine --models gemma3-270m --parts ruler --limit 5 \
        --haystack ESSAYS --tasks ruler_niah_single_2,ruler_niah_multikey_1,ruler_niah_multivalue"
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

MODELS = ("smollm2", "qwen-coder-0.5b", "gemma3-270m")
KEEP = "50%,25%,12.5%,6.25%,3%"
SEEDS = {"reporting": 42, "choosing": 1}
NIAH = ("single_1", "single_2", "single_3", "multikey_1", "multikey_2", "multikey_3", "multivalue", "multiquery")
OTHERS = ("vt", "cwe", "fwe")
LONGBENCH = ("qasper", "2wikimqa", "multi_news", "trec", "passage_retrieval_en", "lcc")  # one of each group
PAGE = Path(__file__).parents[1] / "docs" / "policies-compared.md"
SCORES = PAGE.parent / "results" / "policies-compared"
BASELINE = "reach"
COST_TASK = "ruler_niah_multikey_1"


class PromptSet(NamedTuple):
    """Prompts that one run of `lavakv eval` covers.

    Attributes:
        tasks: their names.
        limit: prompts of each task.
        needs_data: whether the prompts come from a data set.
    """

    tasks: tuple[str, ...]
    limit: int
    needs_data: bool = False


PARTS = {
    "ruler": PromptSet(tuple(f"ruler_{name}" for name in (*(f"niah_{kind}" for kind in NIAH), *OTHERS)), 2),
    "needle": PromptSet(("needle",), 10),
    "longbench": PromptSet(tuple(f"longbench_{name}" for name in LONGBENCH), 5, needs_data=True),
}


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS), help="names or folders, separated by commas")
    parser.add_argument("--model-dir", type=Path, help="folder that holds models by these names")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--policies", default="all", help="names, separated by commas")
    parser.add_argument("--baseline", help=f"policy that the page compares others with; {BASELINE} if it is among them")
    parser.add_argument("--limit", type=int, help="prompts of each task; the part's own number by default")
    parser.add_argument("--tasks", help="tasks of the one part that is named, e.g. ruler_vt,ruler_niah_*")
    parser.add_argument("--length", type=int, default=4096, help="tokens of prompts; data sets' are cut in the middle")
    parser.add_argument("--half", choices=SEEDS, default="reporting")
    parser.add_argument("--kl", type=int, default=16, help="positions to compare distributions at")
    parser.add_argument("--rows", type=int, default=96, help="policy-budget pairs decoded together")
    parser.add_argument(
        "--max-new-tokens", type=int, default=64, help="most tokens of any answer, as long ones cost most"
    )
    parser.add_argument("--data-dir", type=Path, help="LongBench's files; it is left out without them or --hub")
    parser.add_argument("--hub", action="store_true", help="LongBench from the hub")
    parser.add_argument("--haystack", type=Path, help="essays for generated prompts; noise without them")
    parser.add_argument("--dtype", default="bfloat16", help="of the model; float32 is faster without AMX or a GPU")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--with", dest="also", type=Path, nargs="*", default=[], help="folders like --out to draw too")
    parser.add_argument("--out", type=Path, default=Path("build/compare-policies"))
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--scores", type=Path, default=SCORES, help="tables of scores that the page is drawn from")
    parser.add_argument("--draw", action="store_true", help="draw the page from what --out holds, and measure nothing")
    parser.add_argument("--no-page", action="store_true", help="measure, and draw nothing")
    options = parser.parse_args(given)
    options.models, options.parts = options.models.split(","), options.parts.split(",")
    if options.tasks is not None and len(options.parts) != 1:
        parser.error("--tasks: expected one part in --parts, as each has tasks of its own")
    unknown = [part for part in options.parts if part not in PARTS]
    if unknown:
        parser.error(f"--parts: expected some of {', '.join(PARTS)}, got {', '.join(unknown)}")
    return options


def evaluate(options: argparse.Namespace, model: str, part: str, policies: list[str]) -> int:
    """Run one part of a model's prompts; returns the command's exit code."""
    from lavakv.cli.main import run

    prompts = PARTS[part]
    if prompts.needs_data and options.data_dir is None and not options.hub:
        print(f"Left out: {part}, which needs --data-dir or --hub", file=sys.stderr)
        return 0
    chosen = {
        "--model": source(options, model),
        "--tasks": options.tasks or ",".join(prompts.tasks),
        "--policies": ",".join(policies),
        "--keep": KEEP,
        "--mode": "both",
        "--limit": options.limit or prompts.limit,
        "--max-new-tokens": options.max_new_tokens,
        "--kl": options.kl,
        "--rows": options.rows,
        "--dtype": options.dtype,
        "--out": options.out / model / part,
    }
    if prompts.needs_data:
        chosen |= {"--half": options.half, "--data-dir": options.data_dir, "--max-prompt-tokens": options.length}
    else:
        chosen |= {"--lengths": options.length, "--seed": SEEDS[options.half], "--haystack": options.haystack}
    given = [(name, str(value)) for name, value in chosen.items() if value is not None]
    return run(["eval", *(word for option in given for word in option)])


def source(options: argparse.Namespace, model: str) -> str:
    """What to load a model by."""
    local = None if options.model_dir is None else options.model_dir / model
    return model if local is None or not local.is_dir() else str(local)


def costs(options: argparse.Namespace, model: str, found: list[str]) -> None:
    """Measure what each policy adds to a prefill, once; those that can serve the model are added to `found`."""
    from lavakv.cli.variants import loadable, parse_policies
    from lavakv.evaluation.measure_costs import measure_costs
    from lavakv.evaluation.policy_costs import read_costs, write_costs
    from lavakv.evaluation.settings import EvalSettings
    from lavakv.evaluation.variant import Variant
    from lavakv.evaluation.workload import workload
    from lavakv.models.load import load
    from lavakv.tasks import get_task

    names = loadable(parse_policies(options.policies), options.policies)
    folder = options.out / model
    folder.mkdir(parents=True, exist_ok=True)
    known = {cost.policy: cost for cost in read_costs(folder)}
    missing = [name for name in names if name not in known]
    if missing:
        settings = EvalSettings(
            source(options, model), (COST_TASK,), keep=(0.25,), limit=1, lengths=(options.length,), dtype=options.dtype,
            haystack=None if options.haystack is None else str(options.haystack),
        )  # fmt: skip
        loaded, tasks = load(settings.model, dtype=settings.dtype), {COST_TASK: get_task(COST_TASK)}
        (prompt,) = workload(settings, tasks, loaded.tokenizer, loaded.model.config).prompts
        variants = [Variant(name, keep=0.25) for name in missing]
        for cost in measure_costs(loaded.model, prompt.context[None], variants):
            known[cost.policy] = cost
            print(f"{model}: {cost.policy} {cost.reason or f'{cost.share:.2%} of the prefill'}", file=sys.stderr)
        known = {cost.policy: cost for cost in read_costs(folder)} | known  # another process may have added some
        write_costs(folder, list(known.values()))
    for name in names:
        if known[name].reason:
            print(f"Left out for {model}: {name}: {known[name].reason}", file=sys.stderr)
    found += [name for name in names if not known[name].reason]


def main() -> int:
    """Measure, draw, and return an exit code."""
    options = arguments()
    from lavakv.cli.guard import guarded
    from lavakv.cli.main import run

    codes = []
    if not options.draw:
        import torch

        torch.set_num_threads(options.threads)
        os.environ["OMP_NUM_THREADS"] = str(options.threads)
        for model in options.models:
            policies: list[str] = []
            codes.append(guarded(partial(costs, options, model, policies)))
            codes += [evaluate(options, model, part, policies) for part in options.parts if policies]
    if any(codes) or options.no_page:
        return max(codes, default=0)
    folders = [file.parent for out in (options.out, *options.also) for file in sorted(out.glob("*/*/records.jsonl"))]
    drawn = {"all"} if options.policies == "all" else set(options.policies.split(","))
    for table in options.scores.glob("*.json"):
        with suppress(ValueError):  # the report names it
            drawn |= set(json.loads(table.read_text(encoding="utf-8")).get("policies", []))
    baseline = options.baseline or (BASELINE if drawn & {"all", BASELINE} else None)
    named = [] if baseline is None else ["--baseline", baseline]
    return run(["report", *map(str, folders), "--page", str(options.page), "--scores", str(options.scores), *named])


if __name__ == "__main__":
    sys.exit(main())
