"""Chat templates: when one is used, which date it states, and the token ids of a prompt with or without one."""

from __future__ import annotations

from datetime import datetime
from typing import Any

DATE = datetime(2024, 7, 26)
_DATE_TEXT = DATE.strftime("%d %b %Y")
_DIRECTIVES = "aAbBdHIjmMpSyY"
_PLACE = "\u2063text\u2063"  # invisible separators: in no one's text


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

    def wrap(self, text: str) -> str:
        """What the model reads, up to where its answer begins.

        Args:
            text: what the user says.
        """
        if not self.is_used:
            return text
        wrapped: str = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": text}],
            add_generation_prompt=True,
            tokenize=False,
            date_string=_DATE_TEXT,
            **self._with_fixed_clock(),
        )
        return wrapped

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

    def around(self, start: str = "") -> tuple[str, str]:
        """What the model reads before and after the rest of a text that is not known yet.

        Args:
            start: how the user's text begins.
        """
        wrapped = self.wrap(start + _PLACE)
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
