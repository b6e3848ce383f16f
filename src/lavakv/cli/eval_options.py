"""Options that only `lavakv eval` has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lavakv.cli.options import kept_fractions

Tasks = Annotated[
    str | None, typer.Option(help="Task names, separated by commas; * stands for anything. --list-tasks shows them.")
]
Keep = Annotated[str | None, kept_fractions("--budgets 128,256")]
Out = Annotated[
    Path | None, typer.Option(help="Results folder. An interrupted run goes on there; with other settings it is moved.")
]
PresetName = Annotated[
    str | None, typer.Option("--preset", help="Settings with a name: ablation, paper-longbench, ...")
]
Limit = Annotated[int | None, typer.Option(min=1, help="First examples of each task; all if not given.")]
DataDir = Annotated[Path | None, typer.Option(help="Local data instead of the hub.")]
Mode = Annotated[str, typer.Option(help="query-aware, or query-agnostic: questions come after.")]
Protocol = Annotated[str, typer.Option(help="paper, or harness: lm-evaluation-harness's own prompts.")]
Lengths = Annotated[str | None, typer.Option(help="Tokens of generated prompts, such as 4096,8192.")]
Depths = Annotated[str | None, typer.Option(help="Depths of the needle in percent.")]
Haystack = Annotated[Path | None, typer.Option(help="Folder of .txt files for generated prompts.")]
Seed = Annotated[int, typer.Option(min=0, help="Of generated prompts.")]
MaxPromptTokens = Annotated[int, typer.Option(min=2, help="The paper protocol cuts the middle beyond.")]
Rows = Annotated[int, typer.Option(min=1, help="Policy-budget pairs that are decoded together, at most.")]
SkipBroken = Annotated[bool, typer.Option("--skip-broken", help="Leave broken data lines out.")]
Ray = Annotated[bool, typer.Option("--ray", help="Spread prompts over a Ray cluster.")]
RayAddress = Annotated[str | None, typer.Option(help="Of a running cluster; one starts here otherwise.")]
RayCpus = Annotated[int, typer.Option(min=1, help="CPU cores a prompt takes on a cluster without GPUs.")]
Anew = Annotated[bool, typer.Option("--anew", help="Put whatever is in --out aside and start anew.")]
Rescore = Annotated[bool, typer.Option("--rescore", help="Only score the records in --out again.")]
ListTasks = Annotated[bool, typer.Option("--list-tasks", help="Show all tasks.")]
