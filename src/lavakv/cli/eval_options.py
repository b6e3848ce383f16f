"""Options that only `lavakv eval` has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lavakv.cli.options import kept_fractions

Tasks = Annotated[
    str | None,
    typer.Option(metavar="LIST", help="Task names separated by commas; * matches anything. See --list-tasks."),
]
Keep = Annotated[str | None, kept_fractions("--budgets 128,256")]
Out = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Results folder. An interrupted run resumes there; a run with other settings is archived in it.",
    ),
]
PresetName = Annotated[
    str | None, typer.Option("--preset", metavar="NAME", help="Named settings, e.g. ablation or paper-longbench.")
]
Limit = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Examples of each task, from the first; all by default.")
]
DataDir = Annotated[Path | None, typer.Option(metavar="DIR", help="Local data instead of the hub's.")]
Mode = Annotated[str, typer.Option(metavar="MODE", help="query-aware, or query-agnostic: questions come after.")]
Protocol = Annotated[str, typer.Option(metavar="NAME", help="paper, or harness: the prompts of lm-evaluation-harness.")]
Lengths = Annotated[str | None, typer.Option(metavar="LIST", help="Tokens of generated prompts, e.g. 4096,8192.")]
Depths = Annotated[str | None, typer.Option(metavar="LIST", help="Depths of the needle in percent, e.g. 0,50,100.")]
Haystack = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of .txt files for generated prompts.")]
Seed = Annotated[int, typer.Option(metavar="N", min=0, help="Random seed of generated prompts.")]
MaxPromptTokens = Annotated[
    int, typer.Option(metavar="N", min=2, help="Longer prompts are cut in the middle (paper protocol).")
]
Rows = Annotated[int, typer.Option(metavar="N", min=1, help="Maximum number of policy-budget pairs decoded together.")]
SkipBroken = Annotated[bool, typer.Option("--skip-broken", help="Skip broken data records.")]
Ray = Annotated[bool, typer.Option("--ray", help="Distribute prompts over a Ray cluster.")]
RayAddress = Annotated[
    str | None, typer.Option(metavar="ADDRESS", help="Running Ray cluster; by default one is started here.")
]
RayCpus = Annotated[int, typer.Option(metavar="N", min=1, help="CPU cores per prompt on a cluster without GPUs.")]
Restart = Annotated[bool, typer.Option("--anew", help="Archive previous results in --out and start a new run.")]
Rescore = Annotated[bool, typer.Option("--rescore", help="Only score the records in --out again.")]
ListTasks = Annotated[bool, typer.Option("--list-tasks", help="List all tasks and exit.")]
