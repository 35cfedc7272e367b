"""Blocks of code in Markdown, with what the comments before them say, and the commands in them.

A comment stands right before its block: ``<!-- docs: file shop.py -->``. What it may say:

- ``file NAME``: the block is written to this file.
- ``background TEXT``: the command goes on; the page does when its output has the text. The one before is ended.
- ``env NAME=VALUE``: for this block alone. ``export``: the block sets variables for all later ones.
- ``shown``: what the block before has printed. ``run NAME``: what this file prints when it is run.
- ``not run, REASON``: only checked.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from coordinator.cli import main

_BLOCK = re.compile(
    r"(?:<!-- docs: (?P<mark>[^\n]*?) -->\n)?(?:<!-- [^\n]* -->\n)?"
    r"^```(?P<language>[a-z]*)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)

MARKS = ("file", "background", "env", "export", "shown", "run", "not run")

#: What a shell puts between two commands, or before one.
_BETWEEN = ("|", "||", "&&", ";", "&")


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        page: where it is, with its line.
        language: as it is fenced.
        text: the code.
        mark, about: what the comment before it says.
    """

    page: str
    language: str
    text: str
    mark: str
    about: str


def blocks_of(page: Path, name: str) -> Iterator[Block]:
    """Yield the blocks of a page."""
    document = page.read_text()
    for found in _BLOCK.finditer(document):
        line = document.count("\n", 0, found.start("language")) + 1
        said = found["mark"] or ""
        mark = next((one for one in MARKS if re.match(rf"{one}\b", said)), said)
        about = said.removeprefix(mark).lstrip(", ")
        yield Block(f"{name}:{line}", found["language"], found["text"], mark, about)


def commands_in(block: Block) -> Iterator[list[str]]:
    """Yield the words of each command of a block, those of ``$ `` lines in a text."""
    text = block.text.replace("\\\n", " ")
    lines = text.splitlines()
    if block.language == "text":
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    for line in lines:
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;()")
        lexer.whitespace_split = True
        lexer.commenters = "#"
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word in _BETWEEN or set(word) <= set("|&;()"):
                yield from [words] if words else []
                words = []
            else:
                words.append(word)


def check_command(words: list[str]) -> None:
    """Parse a command of the coordinator as the command line would, without carrying it out.

    Raises:
        click.UsageError: there is no such command or option.
    """
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    if words[:1] == ["celery"] and "coordinator" in words:
        words = words[words.index("coordinator") :]
    if words[:1] not in (["coordinator"], [".venv/bin/coordinator"]):
        return
    # A redirection is the shell's.
    end = next((at for at, word in enumerate(words) if word.startswith((">", "<"))), len(words))
    group: click.Command = main
    context = main.make_context("coordinator", words[1:end])
    while isinstance(group, click.Group) and context.args + context._protected_args:
        name, command, rest = group.resolve_command(
            context, [*context._protected_args, *context.args]
        )
        assert command is not None
        group, context = command, command.make_context(name, rest, parent=context)
