"""The work of `lavakv bench`, with progress."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer
from rich.progress import Progress, TaskID

from lavakv.budgets.spec import BudgetSpec
from lavakv.cli.checks import check_model, check_placement
from lavakv.cli.console import progress, results, working
from lavakv.cli.lists import names, whole_numbers
from lavakv.cli.loading import quieten
from lavakv.errors import InputError
from lavakv.models.default import DEFAULT_MODEL

if TYPE_CHECKING:
    from lavakv.bench.settings import BenchSettings
    from lavakv.bench.subject import Subject

_LIMIT = "max"


class Lengths(NamedTuple):
    """Prompt lengths as the user gave them."""

    tokens: tuple[int, ...]
    with_limit: bool

    @classmethod
    def parsed(cls, text: str) -> Lengths:
        """Whole numbers, and `max` for the model's limit, separated by commas."""
        words = names("--tokens", text)
        numbers = [word for word in words if word != _LIMIT]
        return cls(tuple(whole_numbers("--tokens", ",".join(numbers))) if numbers else (), len(numbers) < len(words))

    def check(self, settings: Mapping[str, Any], shape: str | None) -> None:
        """Check lengths and budgets before a model is loaded; a named shape also limits the length.

        Raises:
            LavaError: a value out of range, a budget within the window, more tokens than the shape has positions.
        """
        from lavakv.bench.settings import BenchSettings
        from lavakv.bench.shapes import SHAPES

        checked = BenchSettings(self.tokens or (1,), **settings)
        for budget in checked.budgets:
            BudgetSpec(budget, window=checked.window_tokens).tokens_per_head(checked.tokens, 0, 1)
        limit = SHAPES.get(shape or "", {}).get("max_position_embeddings")
        if limit is not None and max(checked.tokens) > limit:
            raise InputError(
                "--tokens", expected=f"at most {limit}, the shape's positions", got=str(max(checked.tokens)),
                fix="Use max or fewer.",
            )  # fmt: skip

    def settings(self, subject: Subject, settings: Mapping[str, Any]) -> BenchSettings:
        """Settings for a model, whose limit is known now."""
        from lavakv.bench.settings import BenchSettings

        limit = (subject.max_positions(),) if self.with_limit else ()
        return BenchSettings(self.tokens + limit, **settings)


class Reporter:
    """Prints the lines of a benchmark to stdout and its progress to stderr."""

    def __init__(self, bar: Progress, quiet: bool) -> None:
        self._bar, self._quiet = bar, quiet
        self._task: TaskID = bar.add_task("Starting", total=None)
        self._begun = False

    def expect(self, pieces: int) -> None:
        """Set the number of pieces of work."""
        self._bar.update(self._task, total=pieces)

    def say(self, line: str) -> None:
        """Print a line of the report."""
        if not self._quiet:
            results.print(line, highlight=False, markup=False, soft_wrap=True)

    def doing(self, what: str) -> None:
        """Show the next piece of work."""
        self._bar.update(self._task, description=what.capitalize(), advance=float(self._begun))
        self._begun = True


def check_subject(model: str | None, shape: str | None, placement: tuple[str, str, str | None]) -> None:
    """Check names and folders before PyTorch is loaded.

    Args:
        model: value of `--model`.
        shape: value of `--shape`.
        placement: values of `--dtype`, `--device` and `--attention`.

    Raises:
        LavaError: both a model and a shape, or a name that does not exist.
    """
    from lavakv.bench.shapes import require_shape

    if model is not None and shape is not None:
        raise InputError("--model, --shape", expected="one of them", got="both", fix="Give only one of them.")
    if shape is None:
        check_model(model or DEFAULT_MODEL, *placement)
    else:
        require_shape(shape, "--shape")
        check_placement(*placement)


def check_out(out: Path | None) -> None:
    """Raise LavaError unless results can be written to a new folder of that name, if there is one."""
    from lavakv.bench.folder import require_new_folder

    if out is not None:
        require_new_folder(out)


def subject_of(model: str | None, shape: str | None, dtype: str, device: str, attention: str | None) -> Subject:
    """Load a model, or make one."""
    name = shape or model or DEFAULT_MODEL
    with working(f"Loading {name}"):
        quieten()
        from lavakv.bench.subject import Subject

        return (Subject.named if shape is None else Subject.shaped)(name, dtype, device, attention)


def measure(subject: Subject, settings: BenchSettings, out: Path | None, *, quiet: bool) -> None:
    """Run all settings; the JSON line comes last, and alone if `quiet`."""
    from lavakv.bench.folder import BenchFolder
    from lavakv.bench.record import final_line
    from lavakv.bench.run import Bench

    records = []
    with progress() as bar:
        reporter = Reporter(bar, quiet)
        run = Bench(subject, settings, reporter)
        folder = None if out is None else BenchFolder(out)
        reporter.expect(run.num_measurements)
        for record in run.run():
            records.append(record)
            if folder is not None:
                folder.add(record, run.about())
    if folder is not None:
        folder.finish()
    typer.echo(json.dumps(final_line(run.about(), records, run.left_out, run.skipped), allow_nan=False))
