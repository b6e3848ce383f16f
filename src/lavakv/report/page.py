"""From a template to one file that needs nothing else: styles and scripts inside, the network forbidden."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from lavakv.errors import InputError, UnsupportedError

CONTENT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def render(template: str, **values: Any) -> str:
    """Fill a template of `report/templates`.

    Args:
        template: its path there.
        values: what it uses.

    Raises:
        UnsupportedError: jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise UnsupportedError(
            "report", expected="jinja2", got="none", fix="Install it: pip install 'lavakv[report]'."
        ) from error
    from lavakv.report import groups, markup, numbers

    environment = Environment(
        loader=PackageLoader("lavakv.report"),
        autoescape=lambda name: name is not None and name.endswith((".html", ".svg")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for module in (groups, markup, numbers):
        environment.filters |= {
            name: value for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__
        }
    environment.globals["content_policy"] = CONTENT_POLICY
    return environment.get_template(template).render(**values)


def require_writable(file: Path) -> None:
    """Find out before the work whether a page can be written there.

    Raises:
        InputError: it cannot.
    """
    if file.is_dir():
        raise _unwritable(file, "a folder")
    probe = file.with_name(f"{file.name}.try")
    write(probe, "")
    probe.unlink()


def write(file: Path, text: str) -> None:
    """Write a page; what UTF-8 cannot hold (half of a surrogate pair) becomes a question mark.

    Raises:
        InputError: the file cannot be written.
    """
    partial = file.with_name(f"{file.name}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(text.encode("utf-8", "replace"))
        partial.replace(file)
    except OSError as error:
        _forget(partial)
        raise _unwritable(file, error.strerror or str(error)) from error


def _forget(partial: Path) -> None:
    with suppress(OSError):
        partial.unlink()


def _unwritable(file: Path, why: str) -> InputError:
    return InputError("--out", expected="a file that can be written", got=f"{file}: {why}", fix="Check path and disk.")
