"""`lavakv eval`: a model, policies and budgets on benchmark tasks."""

from __future__ import annotations

import typer

from lavakv.budgets.spec import DEFAULT_WINDOW
from lavakv.cli import eval_options, options
from lavakv.cli.checks import check_model, check_seed
from lavakv.cli.eval_settings import chosen_settings
from lavakv.errors import InputError


def evaluate(
    context: typer.Context,
    model: options.ModelName = "smollm2",
    tasks: eval_options.Tasks = None,
    policies: options.Policies = "lava",
    budgets: options.Budgets = None,
    keep: eval_options.Keep = None,
    out: eval_options.Out = None,
    preset: eval_options.PresetName = None,
    limit: eval_options.Limit = None,
    data_dir: eval_options.DataDir = None,
    mode: eval_options.Mode = "query-aware",
    protocol: eval_options.Protocol = "paper",
    lengths: eval_options.Lengths = None,
    depths: eval_options.Depths = None,
    haystack: eval_options.Haystack = None,
    seed: eval_options.Seed = 42,
    max_prompt_tokens: eval_options.MaxPromptTokens = 31_500,
    rows: eval_options.Rows = 8,
    window: options.Window = DEFAULT_WINDOW,
    chat: options.Chat = True,
    skip_broken: eval_options.SkipBroken = False,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    attention: options.Attention = None,
    ray: eval_options.Ray = False,
    ray_address: eval_options.RayAddress = None,
    ray_cpus: eval_options.RayCpus = 1,
    restart: eval_options.Restart = False,
    rescore: eval_options.Rescore = False,
    list_tasks: eval_options.ListTasks = False,
    as_json: options.Json = False,
) -> None:
    """Evaluate policies and budgets on LongBench, RULER, Needle in a Haystack, InfiniteBench and others."""
    from lavakv.cli.eval_runs import ExecutorChoice, run_evaluation, run_rescoring, show_tasks

    if list_tasks:
        show_tasks(as_json)
        return
    if out is None:
        raise InputError("--out", expected="a folder for the results", got="none", fix="Give one, such as --out run1.")
    if rescore:
        run_rescoring(out, as_json)
        return
    settings, passed = chosen_settings(context, preset)
    check_seed(seed)
    check_model(settings.model, settings.dtype, settings.device, settings.attention)
    executors = ExecutorChoice(ray=ray or ray_address is not None, address=ray_address, cpus=ray_cpus)
    executors.check()
    run_evaluation(settings, passed, out, executors, policies=policies, restart=restart, as_json=as_json)
