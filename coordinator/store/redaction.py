"""Redaction: secrets are taken out of texts before they are stored or shown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from coordinator.errors import InvalidSetting

REPLACEMENT = "[redacted]"

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def unstorable(text: str) -> bool:
    """Whether a JSON text may hold what PostgreSQL cannot store; seldom also when it does not."""
    return "\\u0000" in text or "\\ud" in text


def redact(text: str, rules: Sequence[re.Pattern[str]]) -> str:
    """Return ``text`` with everything replaced that a rule matches.

    A rule with a group named ``secret`` replaces that group only, else all it matches:
    ``password=(?P<secret>[^,)]+)`` keeps the word and takes out the value.
    """
    for rule in rules:
        text = rule.sub(_replace, text)
    return text


def _replace(match: re.Match[str]) -> str:
    if "secret" not in match.re.groupindex or match["secret"] is None:
        return REPLACEMENT
    whole, (start, end) = match.group(), match.span("secret")
    return whole[: start - match.start()] + REPLACEMENT + whole[end - match.start() :]


class Redactor:
    """The rules of one installation.

    Args:
        rules: regular expressions.

    Raises:
        InvalidSetting: a rule that is not a regular expression.
    """

    def __init__(self, rules: Iterable[str] = ()) -> None:
        compiled = []
        for rule in rules:
            try:
                compiled.append(re.compile(rule))
            except re.error as error:
                raise InvalidSetting("redact", rule, f"a regular expression ({error})") from None
        self.rules: tuple[re.Pattern[str], ...] = tuple(compiled)

    def text(self, text: str) -> str:
        """Return ``text`` redacted, and without what PostgreSQL cannot store (NUL, half characters)."""
        if _UNSTORABLE.search(text):
            text = _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", text)
        return redact(text, self.rules) if self.rules else text

    def value(self, value: Any) -> Any:
        """Return a JSON value with every text in it redacted."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(str(key)): self.value(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.value(item) for item in value]
        return value
