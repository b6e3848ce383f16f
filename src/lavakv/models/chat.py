"""Chat templates: when one is used, which date it states, and the token ids of a prompt with or without one."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from lavakv.errors import UnsupportedError

DATE = datetime(2024, 7, 26)
_DATE_TEXT = DATE.strftime("%d %b %Y")
_DIRECTIVES = "aAbBdHIjmMpSyY"
_PLACE = "\u2063text\u2063"  # invisible separators: in no one's text


def _template_fails(got: str) -> UnsupportedError:
    return UnsupportedError(
        "chat template", expected="a template for system, user and assistant messages", got=got,
        fix="Omit the system message, or use --no-chat.",
    )  # fmt: skip


class ChatTemplate:
    """A tokenizer's chat template for one question to the model, or none.

    Templates that state the date get the same one on any day, so that a run can be repeated.

    Args:
        tokenizer: a transformers tokenizer.
        use: wrap texts in the template, if the tokenizer has one.

    Attributes:
        is_used: texts are wrapped.
    """

    def __init__(self, tokenizer: Any, use: bool = True) -> None:
        self._tokenizer = tokenizer
        self.is_used = bool(use and getattr(tokenizer, "chat_template", None))

    def wrap(self, text: str, system: str = "") -> str:
        """What the model reads, up to where its answer begins.

        Args:
            text: what the user says.
            system: what stands before it: the system message, or text ahead of a blank line without a template.

        Raises:
            UnsupportedError: a template that takes no system message.
        """
        if not self.is_used:
            return f"{system}\n\n{text}" if system else text
        return self._rendered([("system", system)] * bool(system) + [("user", text)])

    def following(self, text: str) -> str:
        """What the model reads from the end of an answer of its own to where the next one begins.

        Args:
            text: what the user says next.

        Raises:
            UnsupportedError: a template that does not go on from an answer as it stands.
        """
        if not self.is_used:
            return f"\n\n{text}\n\n"
        rendered = self._rendered([("user", "?"), ("assistant", _PLACE), ("user", text)])
        if _PLACE not in rendered:
            raise _template_fails("a template without the text of earlier answers")
        return rendered.rpartition(_PLACE)[2]

    def _rendered(self, messages: list[tuple[str, str]]) -> str:
        """The template's text of a conversation, up to where the next answer begins."""
        try:
            rendered: str = self._tokenizer.apply_chat_template(
                [{"role": role, "content": content} for role, content in messages],
                add_generation_prompt=True,
                tokenize=False,
                date_string=_DATE_TEXT,
                **self._with_fixed_clock(),
            )
        except ImportError:
            raise
        except Exception as error:  # a template may raise anything
            raise _template_fails(f"a template that fails: {error}") from error
        return rendered

    def _with_fixed_clock(self) -> dict[str, str]:
        """The template with a `strftime_now` of its own, if it asks the clock itself."""
        template = self._tokenizer.chat_template
        if isinstance(template, dict):
            template = template.get("default")
        if not isinstance(template, str) or "strftime_now" not in template:
            return {}
        filters = "".join(f"|replace('%{each}', '{DATE.strftime(f'%{each}')}')" for each in _DIRECTIVES)
        clock = f"{{% macro strftime_now(format) %}}{{{{ format{filters} }}}}{{% endmacro %}}"
        return {"chat_template": f"{clock}{{{{ '' }}}}{template}"}  # an expression, lest a first line feed is trimmed

    def around(self, start: str = "", system: str = "") -> tuple[str, str]:
        """What the model reads before and after the rest of a text that is not known yet.

        Args:
            start: how the user's text begins.
            system: what stands before it; see `wrap`.
        """
        wrapped = self.wrap(start + _PLACE, system)
        return wrapped.partition(_PLACE)[0], wrapped.rpartition(_PLACE)[2]

    def ids(self, text: str, *, starts_prompt: bool = True) -> list[int]:
        """Token ids of a wrapped text or of a part of one.

        Args:
            text: the text.
            starts_prompt: it is the beginning of a prompt. Without a template it then gets the special tokens that the
                tokenizer adds; a template brings its own.
        """
        special = starts_prompt and not self.is_used
        ids: list[int] = self._tokenizer(text, add_special_tokens=special)["input_ids"]
        return ids
