"""Upgrade: the migrations shipped with the package, run by the program itself."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from coordinator.errors import Refused, StoreUnavailable
from coordinator.schema import HEAD, views
from coordinator.store.database import UPGRADE_LOCK, Database

if TYPE_CHECKING:
    from alembic.config import Config

#: Alembic keeps the migration under way in module globals: one at a time in a process.
_alembic = threading.Lock()


@dataclass(frozen=True)
class SchemaStatus:
    """Where a database stands.

    Attributes:
        current: its migration, or None when it has no tables yet.
        head: the migration this program needs.
    """

    current: str | None
    head: str

    @property
    def up_to_date(self) -> bool:
        return self.current == self.head


class Upgrade(Database):
    """The verbs of ``coordinator db``."""

    def status(self) -> SchemaStatus:
        """Return the migration of the database and the one this program needs."""
        with self.reading() as connection:
            return SchemaStatus(self._current(connection), HEAD)

    def upgrade(self) -> SchemaStatus:
        """Bring the tables to the state this program needs; return where the database stood before.

        Safe when several processes do it at once: one migrates, the others wait and find nothing left to
        do. All in one transaction: it is done, or nothing has changed.

        Raises:
            Refused: the database is newer than this program, or has tables of another owner with the
                names of our views.
            StoreUnavailable: the database cannot be used.
        """
        if self.dialect == "sqlite" and self.url.database:
            folder = Path(self.url.database).parent
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StoreUnavailable(
                    f"the folder of {self.shown} cannot be made: {error}"
                ) from error
        before = self.status()
        if before.up_to_date:
            return before
        # Its news of each step are not for the logs of every worker; whoever wants them sets a level.
        logger = logging.getLogger("alembic")
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.WARNING)
        # Alembic is needed here alone; every other process starts without its imports.
        from alembic import command
        from alembic.script import ScriptDirectory

        with _alembic, self.writing(UPGRADE_LOCK) as connection:
            before = SchemaStatus(self._current(connection), HEAD)
            if before.up_to_date:
                return before
            config = self._config()
            known = {item.revision for item in ScriptDirectory.from_config(config).walk_revisions()}
            if before.current is not None and before.current not in known:
                raise Refused(
                    f"the database {self.shown} is at migration {before.current}, which this version does "
                    f"not know (it knows up to {HEAD}): install the newer version again"
                )
            self._check_names(connection)
            # Views would forbid changes to the tables under them; they are made anew from the present text.
            for statement in views.drop(self.schema):
                connection.exec_driver_sql(statement)
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            for statement in views.create(self.schema, self.dialect):
                connection.exec_driver_sql(statement)
            return before

    def _config(self) -> Config:
        from alembic.config import Config

        config = Config()
        folder = files("coordinator").joinpath("migrations")
        config.set_main_option("script_location", str(folder).replace("%", "%%"))
        config.set_main_option("path_separator", "os")
        config.attributes["schema"] = self.schema
        return config

    def _current(self, connection: sa.Connection) -> str | None:
        table = self.schema.version_table
        if not sa.inspect(connection).has_table(table):
            return None
        version: sa.ColumnClause[str] = sa.column("version_num", sa.Text)
        found: str | None = connection.scalar(sa.select(version).select_from(sa.table(table)))
        return found

    def _check_names(self, connection: sa.Connection) -> None:
        taken = set(sa.inspect(connection).get_table_names())
        ours = {f"{self.schema.prefix}{name}" for name in views.NAMES}
        if taken & ours:
            raise Refused(
                f"the database {self.shown} has a table {min(taken & ours)!r} of somebody else: "
                "choose a table prefix, so that our names differ"
            )
