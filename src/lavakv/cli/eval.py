"""`lavakv eval`: a model, policies and budgets on benchmark tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lavakv.budgets.spec import DEFAULT_WINDOW
from lavakv.cli import options
from lavakv.cli.eval_options import chosen_settings
from lavakv.cli.lists import names, numbers, whole_numbers
from lavakv.errors import InputError


def evaluate(
    context: typer.Context,
    model: options.ModelName = "smollm2",
    tasks: Annotated[
        str | None,
        typer.Option(help="Task names, separated by commas; * stands for anything. --list-tasks shows them."),
    ] = None,
    policies: Annotated[str, typer.Option(help="Policies, separated by commas, or all.")] = "lava",
    budgets: Annotated[str | None, typer.Option(help="Mean entries per KV head; 128,256 if nothing is given.")] = None,
    keep: Annotated[str | None, typer.Option(help="Kept fractions, such as 0.25,0.125.")] = None,
    out: Annotated[Path | None, typer.Option(help="Results folder; an interrupted run there goes on.")] = None,
    preset: Annotated[str | None, typer.Option(help="Settings with a name: ablation, paper-longbench, ...")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="First examples of each task; all if not given.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Local data instead of the hub.")] = None,
    mode: Annotated[str, typer.Option(help="query-aware, or query-agnostic: questions come after.")] = "query-aware",
    protocol: Annotated[str, typer.Option(help="paper, or harness: lm-evaluation-harness's own prompts.")] = "paper",
    lengths: Annotated[str | None, typer.Option(help="Tokens of generated prompts, such as 4096,8192.")] = None,
    depths: Annotated[str | None, typer.Option(help="Depths of the needle in percent.")] = None,
    haystack: Annotated[Path | None, typer.Option(help="Folder of .txt files for generated prompts.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of generated prompts.")] = 42,
    max_prompt_tokens: Annotated[int, typer.Option(min=2, help="The paper protocol cuts the middle beyond.")] = 31_500,
    rows: Annotated[int, typer.Option(min=1, help="Budgets of a policy that are decoded together, at most.")] = 8,
    window: options.Window = DEFAULT_WINDOW,
    chat: options.Chat = True,
    skip_broken: Annotated[bool, typer.Option("--skip-broken", help="Leave broken data lines out.")] = False,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    attention: options.Attention = None,
    ray: Annotated[bool, typer.Option("--ray", help="Spread prompts over a Ray cluster.")] = False,
    ray_address: Annotated[str | None, typer.Option(help="Of a running cluster; one starts here otherwise.")] = None,
    ray_cpus: Annotated[int, typer.Option(min=1, help="CPU cores a prompt takes on a cluster without GPUs.")] = 1,
    anew: Annotated[bool, typer.Option("--anew", help="Put what is in --out aside and start anew.")] = False,
    rescore: Annotated[bool, typer.Option("--rescore", help="Only score the records in --out again.")] = False,
    list_tasks: Annotated[bool, typer.Option("--list-tasks", help="Show all tasks.")] = False,
    as_json: options.Json = False,
) -> None:
    """Evaluate policies and budgets on LongBench, RULER, Needle in a Haystack, InfiniteBench and others."""
    from lavakv.cli.eval_runs import Engines, run_evaluation, run_rescoring, show_tasks

    if list_tasks:
        show_tasks(as_json)
        return
    if out is None:
        raise InputError("--out", expected="a folder for the results", got="none", fix="Give one, such as --out run1.")
    if rescore:
        run_rescoring(out, as_json)
        return
    given: dict[str, Any] = {
        "model": model, "tasks": tasks and names("--tasks", tasks), "policies": names("--policies", policies),
        "budgets": whole_numbers("--budgets", budgets), "keep": numbers("--keep", keep), "limit": limit,
        "data_dir": data_dir and str(data_dir), "mode": mode, "protocol": protocol,
        "lengths": whole_numbers("--lengths", lengths), "depths": numbers("--depths", depths),
        "haystack": haystack and str(haystack), "seed": seed, "max_prompt_tokens": max_prompt_tokens,
        "window": window, "chat": chat, "skip_broken": skip_broken, "rows": rows, "dtype": dtype, "device": device,
        "attention": attention,
    }  # fmt: skip
    settings, passed = chosen_settings(context, given, preset)
    engines = Engines(ray=ray or ray_address is not None, address=ray_address, cpus=ray_cpus)
    run_evaluation(settings, passed, out, engines, anew=anew, as_json=as_json)
