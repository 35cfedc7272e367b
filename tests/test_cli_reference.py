"""The reference page tells what the commands tell."""

from __future__ import annotations

import click

from tests.cli_reference import PAGE, every, reference


def test_the_page_is_what_the_commands_say_of_themselves() -> None:
    assert PAGE.read_text() == reference(), "write it anew: python -m tests.cli_reference"


def test_every_command_and_every_option_has_a_help_text() -> None:
    for context in every():
        words = context.command_path
        assert context.command.help, words
        for option in context.command.params:
            assert not isinstance(option, click.Option) or option.help, f"{words} {option.name}"
