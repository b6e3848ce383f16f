"""Methods that `enable` sets on a model object in place of its class's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class ReplacedMethod:
    """A method set on a model object; copied and pickled with it.

    Args:
        model: the model.
        replaced: a method of this name that was set on the object before, or None for its class's own.
    """

    name: str

    def __init__(self, model: Any, replaced: Any = None) -> None:
        self.__self__, self.replaced = model, replaced

    @property
    def __wrapped__(self) -> Any:
        """The method behind it, by which signature and documentation are found."""
        model = self.__self__
        return getattr(type(model), self.name).__get__(model) if self.replaced is None else self.replaced


def set_methods(model: Any, methods: Sequence[type[ReplacedMethod]]) -> None:
    """Put methods on a model object, as far as its class has them; idempotent."""
    for method in methods:
        own = model.__dict__.get(method.name)
        if hasattr(type(model), method.name) and not isinstance(own, method):
            setattr(model, method.name, method(model, own))


def take_methods(model: Any, methods: Sequence[type[ReplacedMethod]]) -> None:
    """Take them away; what was set on the object before comes back."""
    for method in methods:
        own = model.__dict__.get(method.name)
        if isinstance(own, method):
            delattr(model, method.name)
            if own.replaced is not None:
                setattr(model, method.name, own.replaced)
