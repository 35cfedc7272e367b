"""The reference page tells what the commands tell."""

from __future__ import annotations

import click
from click.testing import CliRunner

from coordinator.cli import HEADINGS, main
from docs.generate.cli import PAGE, every, reference


def test_the_page_is_what_the_commands_say_of_themselves() -> None:
    assert PAGE.read_text() == reference(), "write it anew: make docs"


def test_every_command_and_every_option_has_a_help_text() -> None:
    for context in every():
        words = context.command_path
        assert context.command.help, words
        for option in context.command.params:
            assert not isinstance(option, click.Option) or option.help, f"{words} {option.name}"


def test_the_help_lists_every_command_whole_and_under_one_heading() -> None:
    listed = [command.name for group in HEADINGS.values() for command in group]
    assert sorted(map(str, listed)) == sorted(main.commands)
    for command in main.commands.values():
        assert command.short_help, command.name
        assert len(command.short_help) <= 55, command.name
    shown = CliRunner(env={"COLUMNS": "80"}).invoke(main, ["--help"]).stdout
    for heading in HEADINGS:
        assert f"\n{heading}:\n" in shown
    for name, command in main.commands.items():
        assert " ".join(f"{name} {command.short_help}".split()) in " ".join(shown.split())
