"""The twin's database, accessed as superuser: its content and users, dumping, and loading a dump."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from atelier_twin.errors import BackupError
from atelier_twin.secrets import Secrets

SCHEMAS = {"public": "tracking", "atelier_registry": "atelier_registry"}
"""Schema → owner."""

SUPERUSER_PASSWORD_FILE = "/secrets/postgres/postgres_password"  # noqa: S105  # path in the container of the server

PG_DUMP_OPTIONS = "--host=127.0.0.1 --username=postgres --dbname=atelier"
CHUNK_BYTES = 8 << 20

RESET_SCHEMAS = """
DROP SCHEMA IF EXISTS atelier_registry CASCADE;
DROP SCHEMA public CASCADE;
CREATE SCHEMA public AUTHORIZATION tracking;
"""


class Database:
    """One connection with one transaction, which ends with the block of `connect`."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def server_version(self) -> str:
        return str(self._query("SHOW server_version")[0][0])

    def table_count(self) -> int:
        return int(self._query("SELECT count(*) FROM pg_tables WHERE schemaname = ANY(%s)", list(SCHEMAS))[0][0])

    def connected_users(self) -> list[str]:
        statement = "SELECT DISTINCT usename FROM pg_stat_activity WHERE usename = ANY(%s)"
        return [str(row[0]) for row in self._query(statement, list(SCHEMAS.values()))]

    def revision(self, schema: str) -> str | None:
        """Alembic's revision of a schema; None without its table."""
        if self._query("SELECT to_regclass(%s)", f"{schema}.alembic_version")[0][0] is None:
            return None
        rows = self._query(f"SELECT version_num FROM {schema}.alembic_version")  # noqa: S608  # one of SCHEMAS
        return str(rows[0][0]) if rows else None

    def dump(self, path: Path) -> None:
        """Writes both schemas as one snapshot in plain SQL.

        The server runs pg_dump, which only its image has, and writes to its own volume.
        """
        folder = self._query("SHOW data_directory")[0][0]
        file = f"{folder}/backup.sql"
        self._run(f'umask 077; PGPASSWORD="$(cat {SUPERUSER_PASSWORD_FILE})" pg_dump {PG_DUMP_OPTIONS} --file={file}')
        with path.open("wb") as target:
            while chunk := self._query("SELECT pg_read_binary_file(%s, %s, %s)", file, target.tell(), CHUNK_BYTES)[0][0]:
                target.write(chunk)
        self._run(f"rm -f {file}")

    def load(self, dump: Path) -> None:
        """Replaces both schemas by a plain SQL dump of pg_dump."""
        with self._connection.cursor() as cursor, dump.open(encoding="utf-8", newline="\n") as file:
            cursor.execute(RESET_SCHEMAS)
            for statements, rows in parse_dump(file):
                if rows is None:
                    cursor.execute(statements)
                else:
                    cursor.copy_expert(statements, rows)

    def _run(self, command: str) -> None:
        """Runs a shell command on the server, as only a superuser may."""
        with self._connection.cursor() as cursor:
            cursor.execute("COPY (SELECT 1) TO PROGRAM %s", (command,))

    def _query(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with self._connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            rows: list[tuple[Any, ...]] = cursor.fetchall()
        return rows


@contextmanager
def connect(secrets: Secrets) -> Iterator[Database]:
    """Connects, and commits if the block raises nothing.

    Raises:
        BackupError: PostgreSQL refused the connection or a statement; nothing was changed.
    """
    import psycopg2

    try:
        connection = psycopg2.connect(
            host="postgres", dbname="atelier", user="postgres", password=secrets.database["postgres"], connect_timeout=10
        )
        try:
            with connection:
                yield Database(connection)
        finally:
            connection.close()
    except psycopg2.Error as error:
        raise BackupError(
            f"PostgreSQL reported an error, and the tables are unchanged: {' '.join(str(error).split())}"
        ) from error


class CopyRows:
    """The rows of one COPY command, as a file that psycopg2 reads."""

    def __init__(self, lines: IO[str]) -> None:
        self._lines, self._at_end = lines, False

    def read(self, _size: int = -1) -> str:
        """The next line; empty at the end."""
        if self._at_end:
            return ""
        line = self._lines.readline()
        self._at_end = line in ("\\.\n", "")
        return "" if self._at_end else line


def parse_dump(dump: IO[str]) -> Iterator[tuple[str, CopyRows | None]]:
    """Yields the statements between two COPY commands with None, or a COPY command with its rows."""
    statements: list[str] = []
    while line := dump.readline():
        if line.startswith("COPY ") and line.endswith(" FROM stdin;\n"):
            if "".join(statements).strip():
                yield "".join(statements), None
            statements = []
            yield line, CopyRows(dump)
        elif not line.startswith(("\\restrict ", "\\unrestrict ", "--")):  # the first two are commands of psql
            statements.append(line)
    if "".join(statements).strip():
        yield "".join(statements), None
