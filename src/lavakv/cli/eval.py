"""`lavakv eval`: a model, policies and budgets on benchmark tasks. Its options; `eval_runs.py` does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lavakv.cli import options
from lavakv.cli.checks import check_model, check_seed
from lavakv.cli.console import deprecated
from lavakv.cli.eval_settings import chosen_settings
from lavakv.errors import InputError

_Tasks = Annotated[
    str | None,
    typer.Option(metavar="LIST", help="Task names separated by commas; * matches anything. See --list-tasks."),
]
_Keep = Annotated[str | None, options.kept_fractions("--budgets 128,256")]
_Out = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Results folder. An interrupted run resumes there; a run with other settings is archived in it.",
    ),
]
_PresetName = Annotated[
    str | None, typer.Option("--preset", metavar="NAME", help="Named settings, e.g. ablation or paper-longbench.")
]
_Limit = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Examples of each task, from the first; all by default.")
]
_DataDir = Annotated[Path | None, typer.Option(metavar="DIR", help="Local data instead of the hub's.")]
_Mode = Annotated[
    str, typer.Option(metavar="MODE", help="query-aware, query-agnostic (questions come after), or both: one prefill.")
]
_Kl = Annotated[
    int, typer.Option(metavar="N", min=0, help="Tokens of the full cache's answer to compare distributions over.")
]
_MaxNewTokens = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Maximum length of any answer; what the task allows by default.")
]
_Half = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="choosing or reporting: half of each data set's examples, by a hash of their text."
    ),
]
_Protocol = Annotated[
    str, typer.Option(metavar="NAME", help="paper, or harness: the prompts of lm-evaluation-harness.")
]
_Lengths = Annotated[str | None, typer.Option(metavar="LIST", help="Tokens of generated prompts, e.g. 4096,8192.")]
_Depths = Annotated[str | None, typer.Option(metavar="LIST", help="Depths of the needle in percent, e.g. 0,50,100.")]
_Haystack = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of .txt files for generated prompts.")]
_Seed = Annotated[int, typer.Option(metavar="N", min=0, help="Random seed of generated prompts.")]
_MaxPromptTokens = Annotated[
    int, typer.Option(metavar="N", min=2, help="Longer prompts are cut in the middle (paper protocol).")
]
_Rows = Annotated[int, typer.Option(metavar="N", min=1, help="Maximum number of policy-budget pairs decoded together.")]
_SkipBroken = Annotated[bool, typer.Option("--skip-broken", help="Skip broken data records.")]
_Ray = Annotated[bool, typer.Option("--ray", help="Distribute prompts over a Ray cluster.")]
_RayAddress = Annotated[
    str | None, typer.Option(metavar="ADDRESS", help="Running Ray cluster; by default one is started here.")
]
_RayCpus = Annotated[int, typer.Option(metavar="N", min=1, help="CPU cores per prompt on a cluster without GPUs.")]
_Restart = Annotated[bool, typer.Option("--restart", help="Archive previous results in --out and start a new run.")]
_Anew = Annotated[bool, typer.Option("--anew", hidden=True, help="Deprecated: use --restart.")]
_Rescore = Annotated[bool, typer.Option("--rescore", help="Only score the records in --out again.")]
_ListTasks = Annotated[bool, typer.Option("--list-tasks", help="List all tasks and exit.")]


def evaluate(
    context: typer.Context,
    model: options.ModelName = "smollm2",
    tasks: _Tasks = None,
    policies: options.Policies = "lava",
    budgets: options.Budgets = None,
    keep: _Keep = None,
    out: _Out = None,
    preset: _PresetName = None,
    limit: _Limit = None,
    data_dir: _DataDir = None,
    mode: _Mode = "query-aware",
    protocol: _Protocol = "paper",
    lengths: _Lengths = None,
    depths: _Depths = None,
    haystack: _Haystack = None,
    seed: _Seed = 42,
    max_prompt_tokens: _MaxPromptTokens = 31_500,
    rows: _Rows = 8,
    window: options.Window = None,
    chat: options.Chat = True,
    skip_broken: _SkipBroken = False,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    attention: options.Attention = None,
    half: _Half = None,
    kl: _Kl = 0,
    max_new_tokens: _MaxNewTokens = None,
    ray: _Ray = False,
    ray_address: _RayAddress = None,
    ray_cpus: _RayCpus = 1,
    restart: _Restart = False,
    anew: _Anew = False,
    rescore: _Rescore = False,
    list_tasks: _ListTasks = False,
    as_json: options.Json = False,
) -> None:
    """Evaluate policies and budgets on LongBench, RULER, Needle in a Haystack, InfiniteBench and others."""
    from lavakv.cli.eval_runs import ExecutorChoice, run_evaluation, run_rescoring
    from lavakv.cli.eval_view import show_tasks

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
    if anew:
        deprecated("--anew", "--restart")
    run_evaluation(settings, passed, out, executors, policies=policies, restart=restart or anew, as_json=as_json)
