"""Definitions in files: one workflow in each JSON or TOML file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from coordinator.errors import InvalidValue
from coordinator.workflows.definitions import Workflow, workflow_of

KINDS = (".json", ".toml")


def read_workflows(paths: Iterable[str]) -> list[Workflow]:
    """Return the workflows of files, and of all files of folders, in the order of their names.

    Raises:
        InvalidValue: a file that cannot be read, or in which something is not allowed; names the file and the field.
    """
    found: dict[str, Path] = {}
    workflows = []
    for path in [file for given in paths for file in _files(Path(given))]:
        workflow = _read(path)
        if workflow.name in found:
            allowed = f"a name that no other workflow has; {found[workflow.name]} has it"
            raise InvalidValue(f"{path}, name", workflow.name, allowed)
        found[workflow.name] = path
        workflows.append(workflow)
    return workflows


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.suffix in KINDS)
    if path.suffix not in KINDS:
        raise InvalidValue(
            "coordinator_workflows", str(path), "a folder, or a file that ends in .json or .toml"
        )
    return [path]


def _read(path: Path) -> Workflow:
    try:
        return workflow_of(_parsed(path))
    except InvalidValue as error:
        where = f"{path}, {error.field}"
        raise InvalidValue(where, error.value, error.allowed, error.choices) from None


def _parsed(path: Path) -> Any:
    try:
        text = path.read_text("utf-8")
        if path.suffix == ".json":
            return json.loads(text)
        # Every worker and producer imports this file, and few have workflows in such files.
        import tomllib

        return tomllib.loads(text)
    except OSError as error:
        raise InvalidValue("file", path.name, f"one that can be read ({error.strerror})") from None
    except ValueError as error:
        kind = path.suffix[1:].upper()
        raise InvalidValue("file", path.name, f"{kind}: {error}") from None
