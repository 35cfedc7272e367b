"""The reference page of the command line, made from the commands themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from coordinator.cli import main
from docs.generate import FOLDER

PAGE = FOLDER / "cli.md"

INTRODUCTION = """# Command line

`coordinator VERB`, or `celery -A APP coordinator VERB` once the distribution is installed (`make install` does it; `pip
install -e .` in a checkout is enough). The app is that of `-A`, of `COORDINATOR_APP`, or `tasks` in the present folder.

- Every verb has `--help`, and `--json` for scripts; what people see may change, the JSON may not. Two have no `--json`:
  `web` serves until it is ended, and `db export` writes JSON lines in any case.
- Exit codes: 0 fine, 1 refused or unhealthy, 2 a wrong call. Errors are one line on standard error, and say
  what to do next.
- Durations are written `90s`, `10m`, `2h`, `24h`, `7d`, or together: `1h30m`.
- What changes something takes `--reason` and `--by` for the log; read it with `coordinator audit`.
- Bulk verbs show what they would touch with `--dry-run`, and ask unless `--yes` is given.

Completion in the shell: `eval "$(_COORDINATOR_COMPLETE=bash_source coordinator)"` in `~/.bashrc`; `zsh_source` and
`fish_source` for these shells.

A batch file, as `submit --config` takes it, is a base and its variants; `kwargs` are merged, everything else is
replaced, and `count` makes several of one:

```json
{
  "base": {"task": "tasks.training.train", "queue": "training", "kwargs": {"model": "tic-tac-toe"}},
  "variants": [
    {"priority": 2},
    {"org": "acme", "count": 2}
  ]
}
```

A job may say `task` or `job_type`, `args`, `kwargs`, `queue`, `model` or `models`, `org`, `integration`, `priority`,
`max_retries`, `timeout` and `countdown` (seconds). Commands and callables must be named by
`coordinator_allowed_commands` and `coordinator_allowed_callables`.

This page is made from the commands: `make docs`.
"""


def commands(group: click.Group, parent: click.Context) -> Iterator[click.Context]:
    """Yield each command as if it was called, groups before what is in them."""
    for name, command in sorted(group.commands.items()):
        context = click.Context(command, info_name=name, parent=parent, terminal_width=100)
        yield context
        if isinstance(command, click.Group):
            yield from commands(command, context)


def every() -> Iterator[click.Context]:
    """Yield each command of the command line."""
    # As a child of the real one: it hands down how help is asked for.
    settings: dict[str, Any] = dict(main.context_settings)
    return commands(main, click.Context(main, info_name="coordinator", **settings))


def reference() -> str:
    """Return the page."""
    parts = [
        f"## {context.command_path}\n\n```text\n{context.get_help().strip()}\n```\n"
        for context in every()
    ]
    return "\n".join([INTRODUCTION, *parts])
