"""Templates to self-contained pages: styles and scripts inside, network access forbidden."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from lavakv.errors import UnsupportedError

CONTENT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def require_jinja(argument: str) -> None:
    """Raise UnsupportedError if jinja2 is missing. Does not import it.

    Args:
        argument: the argument or command that needs it.
    """
    if find_spec("jinja2") is None:
        raise UnsupportedError(argument, expected="jinja2", got="none", fix="Install it: pip install 'lavakv[report]'.")


def render(template: str, **values: Any) -> str:
    """Fill a template of `report/templates`.

    Args:
        template: its path there.
        values: variables of the template.

    Raises:
        UnsupportedError: jinja2 is not installed.
    """
    require_jinja("report")
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from lavakv.report import filters, numbers
    from lavakv.report.policies import cells

    environment = Environment(
        loader=PackageLoader("lavakv.report"),
        autoescape=lambda name: name is not None and name.endswith((".html", ".svg")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for module in (filters, numbers, cells):
        environment.filters |= {
            name: value for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__
        }
    environment.globals["content_policy"] = CONTENT_POLICY
    return environment.get_template(template).render(**values)


def as_bytes(page: str) -> bytes:
    """A page as UTF-8; what that cannot hold (half of a surrogate pair) becomes a question mark."""
    return page.encode("utf-8", "replace")
