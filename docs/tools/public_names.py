"""Sphinx extension: the directive `public`, which documents names of lavakv from their source.

    .. public:: LavaCache scoring.window.ScoringWindow

The package is read, not imported, so that building the site needs neither PyTorch nor transformers. A name without a
dot is one of `lavakv.__all__`, any other the path that users import it by. A name that does not exist is an error; an
exported name that no page documents is a warning.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import griffe
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment
from sphinx.ext.napoleon import GoogleDocstring
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

SOURCE = Path(__file__).parents[2] / "src"
_INDENT = "   "
_log = logging.getLogger(__name__)


@cache
def package() -> Any:
    """The package as griffe reads it."""
    return griffe.load("lavakv", search_paths=[str(SOURCE)])


def exported() -> list[str]:
    """`lavakv.__all__` without `__version__`."""
    return [name for name in package().exports if name != "__version__"]


def reference(name: str, config: Config) -> list[str]:
    """A name as reStructuredText: signature, docstring and, of a class, its public methods."""
    return list(_described(_find(name), f"lavakv.{name}", config))


class Public(SphinxDirective):
    """`public NAME [NAME ...]`."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """Document the names in the order in which they are given."""
        found: list[nodes.Node] = []
        for name in self.arguments[0].split():
            if "." not in name and name not in exported():
                raise self.error(f"lavakv.__all__ has no {name!r}")
            if _find(name) is None:
                raise self.error(f"lavakv has no {name!r}")
            self.env.note_dependency(str(_find(name).filepath))
            found += self.parse_text_to_nodes("\n".join(reference(name, self.config)))
        return found


def _find(name: str) -> Any:
    """The object that a name stands for, or None."""
    try:
        return _target(package()[name])
    except (KeyError, griffe.AliasResolutionError):
        return None


def _target(found: Any) -> Any:
    """What a name stands for: `enable` is a module of lavakv.hf and, imported from it, a function."""
    found = found.final_target if found.is_alias else found
    return _target(found[found.name]) if found.kind is griffe.Kind.MODULE else found


def _described(found: Any, name: str, config: Config) -> Iterator[str]:
    is_class = found.kind is griffe.Kind.CLASS
    yield f".. py:{_kind(found)}:: {name}{_signature(found)}"
    if "property" in found.labels and found.annotation is not None:
        yield f"{_INDENT}:type: {found.annotation}"
    yield ""
    for line in _docstring(found, config):
        yield _INDENT + line
    yield ""
    for member in found.members.values() if is_class else ():
        if _is_method(member):
            yield from (_INDENT + line for line in _described(member, member.name, config))


def _kind(found: Any) -> str:
    if "property" in found.labels:
        return "property"
    if found.kind is griffe.Kind.FUNCTION:
        return "method" if found.parent.kind is griffe.Kind.CLASS else "function"
    bases = {str(base) for base in found.bases} if found.kind is griffe.Kind.CLASS else set()
    return "exception" if any(base.endswith(("Error", "Exception")) for base in bases) else "class"


def _signature(found: Any) -> str:
    """Parameters without `self`, and what is returned; an error's are those of `LavaError` and said there."""
    if "property" in found.labels or _kind(found) == "exception":
        return ""
    parameters = [each for each in found.parameters if each.name != "self"]
    if found.kind is griffe.Kind.CLASS:
        return f"({_parameters(parameters)})" if parameters else ""
    returns = "" if found.returns is None else f" -> {found.returns}"
    return f"({_parameters(parameters)}){returns}"


def _parameters(parameters: list[Any]) -> str:
    written: list[str] = []
    starred = False
    for each in parameters:
        if each.kind is griffe.ParameterKind.keyword_only and not starred:
            written.append("*")
            starred = True
        starred = starred or each.kind is griffe.ParameterKind.var_positional
        sign = {griffe.ParameterKind.var_positional: "*", griffe.ParameterKind.var_keyword: "**"}.get(each.kind, "")
        annotation = "" if each.annotation is None else f": {each.annotation}"
        written.append(
            f"{sign}{each.name}{annotation}" + ("" if sign or each.default is None else f" = {each.default}")
        )
    return ", ".join(written)


def _docstring(found: Any, config: Config) -> list[str]:
    if found.docstring is None:
        return []
    what = "class" if found.kind is griffe.Kind.CLASS else "function"
    lines = GoogleDocstring(found.docstring.value, config, what=what).lines()
    return [" ".join(line.split("\n    ")) for line in lines]  # an error that takes two lines comes with its line feed


def _is_method(member: Any) -> bool:
    is_callable = member.kind is griffe.Kind.FUNCTION or "property" in member.labels
    return is_callable and not member.name.startswith("_") and member.docstring is not None


def _complain_of_missing(app: Sphinx, env: BuildEnvironment) -> None:
    documented = env.get_domain("py").objects
    for name in exported():
        if f"lavakv.{name}" not in documented:
            _log.warning("no page documents lavakv.%s: add it to a `public` directive", name)


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect to Sphinx."""
    app.add_directive("public", Public)
    app.connect("env-check-consistency", _complain_of_missing)
    return {"parallel_read_safe": True}
