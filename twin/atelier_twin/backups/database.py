"""The twin's database as its superuser sees it: what is in it, who uses it, and a dump of pg_dump brought back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from atelier_twin.errors import BackupError
from atelier_twin.secrets import Secrets

SCHEMAS = {"public": "tracking", "atelier_registry": "atelier_registry"}
"""Schema → the user that owns it."""

SUPERUSER_FILE = "/secrets/postgres/postgres_password"
"""In the server's container."""

LOGIN = "--host=127.0.0.1 --username=postgres --dbname=atelier"
PIECE_BYTES = 8 << 20

EMPTY = """
DROP SCHEMA IF EXISTS atelier_registry CASCADE;
DROP SCHEMA public CASCADE;
CREATE SCHEMA public AUTHORIZATION tracking;
"""


class Database:
    """One connection, in one transaction that ends with the block of `opened`."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def version(self) -> str:
        return str(self._ask("SHOW server_version")[0][0])

    def tables(self) -> int:
        return int(self._ask("SELECT count(*) FROM pg_tables WHERE schemaname = ANY(%s)", list(SCHEMAS))[0][0])

    def users(self) -> list[str]:
        asked = "SELECT DISTINCT usename FROM pg_stat_activity WHERE usename = ANY(%s)"
        return [str(row[0]) for row in self._ask(asked, list(SCHEMAS.values()))]

    def revision(self, schema: str) -> str | None:
        """What Alembic noted in a schema; None without its table."""
        if self._ask("SELECT to_regclass(%s)", f"{schema}.alembic_version")[0][0] is None:
            return None
        rows = self._ask(f"SELECT version_num FROM {schema}.alembic_version")  # noqa: S608  # one of SCHEMAS
        return str(rows[0][0]) if rows else None

    def dump(self, path: Path) -> None:
        """Writes everything in both schemas, as of one moment, as plain SQL.

        pg_dump is in the image of the server alone, so the server runs it, into its own volume.

        Args:
            path: of the file to write.
        """
        folder = self._ask("SHOW data_directory")[0][0]
        file = f"{folder}/backup.sql"
        self._run(f'umask 077; PGPASSWORD="$(cat {SUPERUSER_FILE})" pg_dump {LOGIN} --file={file}')
        with path.open("wb") as written:
            while piece := self._ask("SELECT pg_read_binary_file(%s, %s, %s)", file, written.tell(), PIECE_BYTES)[0][0]:
                written.write(piece)
        self._run(f"rm -f {file}")

    def load(self, dump: Path) -> None:
        """Replaces everything in both schemas by a dump.

        Args:
            dump: written by pg_dump, as plain SQL.
        """
        with self._connection.cursor() as cursor, dump.open(encoding="utf-8", newline="\n") as file:
            cursor.execute(EMPTY)
            for statements, rows in _parts(file):
                if rows is None:
                    cursor.execute(statements)
                else:
                    cursor.copy_expert(statements, rows)

    def _run(self, command: str) -> None:
        """A shell command on the server, which its superuser may give."""
        with self._connection.cursor() as cursor:
            cursor.execute("COPY (SELECT 1) TO PROGRAM %s", (command,))

    def _ask(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with self._connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            found: list[tuple[Any, ...]] = cursor.fetchall()
        return found


@contextmanager
def opened(made: Secrets) -> Iterator[Database]:
    """Connects, and commits where the block ends well.

    Raises:
        BackupError: PostgreSQL refused something; nothing was changed.
    """
    import psycopg2

    try:
        connection = psycopg2.connect(
            host="postgres", dbname="atelier", user="postgres", password=made.database["postgres"], connect_timeout=10
        )
        try:
            with connection:
                yield Database(connection)
        finally:
            connection.close()
    except psycopg2.Error as error:
        raise BackupError(f"PostgreSQL refused, and its tables are as they were: {' '.join(str(error).split())}") from error


class _Rows:
    """The lines of one COPY up to its end, as a file that psycopg2 reads."""

    def __init__(self, lines: IO[str]) -> None:
        self._lines, self._ended = lines, False

    def read(self, _size: int = -1) -> str:
        """The next line; empty at the end."""
        if self._ended:
            return ""
        line = self._lines.readline()
        self._ended = line in ("\\.\n", "")
        return "" if self._ended else line


def _parts(dump: IO[str]) -> Iterator[tuple[str, _Rows | None]]:
    """Statements between two COPY commands, or one COPY command with its rows."""
    statements: list[str] = []
    while line := dump.readline():
        if line.startswith("COPY ") and line.endswith(" FROM stdin;\n"):
            if "".join(statements).strip():
                yield "".join(statements), None
            statements = []
            yield line, _Rows(dump)
        elif not line.startswith(("\\restrict ", "\\unrestrict ", "--")):  # the first two are psql's own commands
            statements.append(line)
    if "".join(statements).strip():
        yield "".join(statements), None
