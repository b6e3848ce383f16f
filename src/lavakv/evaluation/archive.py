"""Archiving a run: its files move into a numbered subfolder, all of them or, after a kill, none."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from lavakv.evaluation.jsonl import cannot_write
from lavakv.evaluation.records import FILE
from lavakv.files import sync_folder

RUN, SUMMARY, EARLIER = "run.json", "summary.json", "earlier"
_OURS = (FILE, RUN, SUMMARY, "report.html", "report.md", "report-*.svg")
_UNFINISHED = ".unfinished"


def archive_run(folder: Path) -> Path | None:
    """Move a run's files to `earlier/<number>`: one by one to a folder beside it, which is then renamed.

    Returns:
        Where they are now, or None if there were no files.

    Raises:
        ResultsError: they cannot be moved; they are where they were.
    """
    files = [file for pattern in _OURS for file in sorted(folder.glob(pattern))]
    if not files:
        return None
    earlier = folder / EARLIER
    try:
        (earlier / _UNFINISHED).mkdir(parents=True)
        for file in files:
            file.replace(earlier / _UNFINISHED / file.name)
        sync_folder(earlier / _UNFINISHED)
        place = (earlier / _UNFINISHED).rename(_next_folder(earlier))
        sync_folder(earlier)
        sync_folder(folder)
    except OSError as error:
        with suppress(OSError):  # the rest is moved back when the folder is locked the next time
            undo_partial_archive(folder)
        raise cannot_write(folder, error) from error
    return place


def undo_partial_archive(folder: Path) -> None:
    """Undo an `archive_run` that was killed half-way: the old run can then be resumed or archived.

    Raises:
        OSError: files cannot be moved; none is lost.
    """
    unfinished = folder / EARLIER / _UNFINISHED
    if not unfinished.is_dir():
        return
    for file in list(unfinished.iterdir()):
        if not (folder / file.name).exists():
            file.replace(folder / file.name)
    if any(unfinished.iterdir()):  # files of the same names have been written since then: keep both
        unfinished.rename(_next_folder(unfinished.parent))
    else:
        unfinished.rmdir()
    sync_folder(folder)


def _next_folder(earlier: Path) -> Path:
    """The first numbered folder that is not there yet."""
    number = 1
    while (earlier / str(number)).exists():
        number += 1
    return earlier / str(number)
