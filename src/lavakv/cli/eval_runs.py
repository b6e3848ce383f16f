"""The work of `lavakv eval`: evaluating and scoring again, with progress."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import ProgressColumn, Task
from rich.text import Text

from lavakv.cli.console import notes, print_json, progress, results, working
from lavakv.cli.eval_view import print_summary
from lavakv.cli.loading import load_quietly, quieten, starting
from lavakv.cli.variants import ALL, fitting, loadable, serving
from lavakv.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from lavakv.evaluation.executor import Executor
    from lavakv.evaluation.folder import Claim
    from lavakv.evaluation.record import Record
    from lavakv.evaluation.run import Evaluation
    from lavakv.evaluation.settings import EvalSettings


@dataclasses.dataclass(frozen=True, slots=True)
class ExecutorChoice:
    """What runs the model: this process, or a Ray cluster."""

    ray: bool = False
    address: str | None = None
    cpus: int = 1

    def check(self) -> None:
        """Raise MissingExtraError if a cluster is requested and Ray is missing."""
        if self.ray and find_spec("ray") is None:
            raise MissingExtraError("--ray", expected="ray", got="none", fix="Install it: pip install 'lavakv[ray]'.")

    def start(self, settings: EvalSettings) -> Executor:
        """Load the model here, or find the cluster."""
        with starting():
            from lavakv.evaluation.cluster import RayExecutor
            from lavakv.evaluation.executor import SerialExecutor

        if self.ray:
            quieten()
            with working("Starting Ray"):
                return RayExecutor(settings, self.address, self.cpus)
        return SerialExecutor(load_quietly(settings.model, settings.dtype, settings.device, settings.attention))


def run_evaluation(
    settings: EvalSettings,
    passed: Sequence[str],
    out: Path,
    executors: ExecutorChoice,
    *,
    policies: str,
    restart: bool,
    as_json: bool,
) -> None:
    """Evaluate, and print the results.

    Args:
        settings: what to compute.
        passed: names of the settings that the user gave.
        out: results folder.
        executors: what runs the model.
        policies: value of `--policies`; of "all", plugins that cannot be loaded and policies that cannot serve the
            model or its prompts are left out, with a note.
        restart: archive what is in the folder.
        as_json: print one JSON document.
    """
    from lavakv.evaluation.folder import locked
    from lavakv.evaluation.provenance import early_identity
    from lavakv.tasks import get_task

    tasks = {task.name: task for task in (get_task(name, settings.protocol) for name in settings.tasks)}
    settings.variants()  # finds unknown policies and bad budgets
    with locked(out) as folder:
        if not restart:
            folder.changes(early_identity(settings, tasks))  # finds another version's run before a model is loaded
        with starting():
            from lavakv.evaluation.run import Evaluation
            from lavakv.evaluation.scores import summarize
            from lavakv.evaluation.settings import with_policies
        settings = dataclasses.replace(settings, policies=tuple(loadable(settings.policies, policies)))
        executor = executors.start(settings)
        if policies == ALL:
            settings = with_policies(settings, serving(settings.variants(), ALL, executor.config, executor.model))
        usable = partial(fitting, config=executor.config, given=policies)
        with working("Preparing prompts"):
            evaluation = Evaluation(settings, tasks, executor, folder, passed, restart=restart, fitting=usable)
        _announce(evaluation, out)
        summary = {"skipped": evaluation.skipped, **summarize(_run_with_progress(evaluation, out))}
        folder.write_summary(summary)
    if as_json:
        print_json({"out": str(out), "earlier": _moved(evaluation.claim), **summary})
    else:
        print_summary(summary, out)


def _moved(claim: Claim) -> dict[str, Any] | None:
    """Where the previous run was archived, and which settings changed; None if nothing moved."""
    if claim.earlier is None:
        return None
    return {"folder": str(claim.earlier), "changed": [str(each) for each in claim.changed]}


def _announce(evaluation: Evaluation, out: Path) -> None:
    """Print what was archived and which tasks are left out."""
    claim = evaluation.claim
    if claim.earlier is not None:
        why = f"Settings changed ({'; '.join(map(str, claim.changed))}). " if claim.changed else ""
        line = f"{why}Starting a new run in {out}; previous results moved to {claim.earlier}"
        notes.print(line, highlight=False, markup=False, soft_wrap=True)
    for reason in evaluation.skipped.values():
        notes.print(f"Left out: {reason}", style="yellow", highlight=False, markup=False)


def _run_with_progress(evaluation: Evaluation, out: Path) -> list[Record]:
    from lavakv.evaluation.cost import Forecast

    forecast, done = Forecast(evaluation.waiting(), evaluation.num_workers), len(evaluation.finished)
    if done:
        notes.print(f"{done} of {evaluation.num_records} records are finished already", highlight=False)
    with progress(_TimeLeft()) as bar:
        row = bar.add_task("Records", total=evaluation.num_records, completed=done, left=None)

        def note(record: Record) -> None:
            forecast.note(record)
            bar.update(row, advance=1, description=record["task"], left=forecast.seconds_left)

        try:
            return evaluation.run(note)
        except BaseException:
            kept, claim = len(evaluation.finished), evaluation.claim
            command = "the same command" + (", without --restart," if claim.earlier and not claim.changed else "")
            notes.print(
                f"Stopped. {kept} of {evaluation.num_records} records are in {out}; rerun {command} to resume",
                highlight=False, markup=False,
            )  # fmt: skip
            raise


class _TimeLeft(ProgressColumn):
    """Time left by the run's own forecast."""

    def render(self, task: Task) -> Text:
        """Hours, minutes and seconds, or nothing while nothing is known."""
        left = task.fields.get("left")
        if left is None:
            return Text("-:--:-- left", style="progress.remaining")
        minutes, seconds = divmod(int(left), 60)
        return Text(f"{minutes // 60}:{minutes % 60:02}:{seconds:02} left", style="progress.remaining")


def run_rescoring(out: Path, as_json: bool) -> None:
    """Score the records of a folder again, and print how many scores changed."""
    if not out.is_dir():
        raise InputError(
            "--out", expected="a folder of results", got=f"{out}, which is not a folder", fix="Check the path."
        )
    from lavakv.evaluation.folder import locked
    from lavakv.evaluation.scores import rescore, summarize

    with locked(out) as folder, working("Scoring"):
        records, changed = rescore(folder)
        summary = summarize(records)
        folder.write_summary(summary)
    if as_json:
        print_json({"out": str(out), "changed": changed, **summary})
        return
    results.print(f"{len(records)} records scored, {changed} with another score than before", highlight=False)
    print_summary(summary, out)
