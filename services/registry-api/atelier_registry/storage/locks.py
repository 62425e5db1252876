"""One decision at a time on each alias, over all processes: PostgreSQL's advisory locks, or files beside SQLite.

Both end with the process that holds them, however it ends. A decision holds its model's lock shared and its alias's alone;
retiring a version holds the model's lock alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from typing import Protocol
from weakref import WeakValueDictionary

from sqlalchemy import Engine, NullPool, create_engine, text
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from atelier_registry.errors import AliasBusyError, DatabaseUnavailableError

_LOOK_S = 0.01
"""Between two tries at a file's lock: `flock` itself cannot wait with a limit."""


class AliasLocks(Protocol):
    """Locks of an alias, or of a whole model."""

    def alone(self, model: str, alias: str | None) -> contextlib.AbstractContextManager[None]:
        """Holds the alias, or all of the model where no alias is given.

        Raises:
            AliasBusyError: others held it for too long.
            DatabaseUnavailableError: the database does not answer.
        """


def open_locks(engine: Engine, wait_s: float) -> AliasLocks:
    """The locks that go with a database.

    Args:
        engine: of the decisions.
        wait_s: how long a decision waits for others.
    """
    if engine.dialect.name == "postgresql":
        return AdvisoryLocks(engine, wait_s)
    return FileLocks(Path(f"{engine.url.database}.locks"), wait_s)


class _Turns:
    """Threads of one process queue here first, so that at most one of them for each alias asks the outside."""

    def __init__(self, wait_s: float) -> None:
        self._wait_s = wait_s
        self._guard = Lock()
        self._locks: WeakValueDictionary[tuple[str, str | None], Lock] = WeakValueDictionary()

    @contextlib.contextmanager
    def turn(self, model: str, alias: str | None) -> Iterator[None]:
        with self._guard:
            lock = self._locks.setdefault((model, alias), Lock())
        if not lock.acquire(timeout=self._wait_s):
            raise AliasBusyError(model, alias, self._wait_s)
        try:
            yield
        finally:
            lock.release()


class FileLocks:
    """`flock` on files in a folder beside the SQLite file. An empty file stays behind for each alias."""

    def __init__(self, folder: Path, wait_s: float) -> None:
        self._folder, self._wait_s, self._turns = folder, wait_s, _Turns(wait_s)

    @contextlib.contextmanager
    def alone(self, model: str, alias: str | None) -> Iterator[None]:
        """See `AliasLocks`."""
        with self._turns.turn(model, alias), contextlib.ExitStack() as held:
            try:
                self._folder.mkdir(exist_ok=True)
                for name, operation in _needed(model, alias):
                    file = os.open(self._folder / hashlib.sha256(name.encode()).hexdigest()[:32], os.O_RDWR | os.O_CREAT, 0o600)
                    held.callback(os.close, file)
                    self._lock(file, fcntl.LOCK_EX if operation == "alone" else fcntl.LOCK_SH, model, alias)
            except OSError as error:
                raise DatabaseUnavailableError from error
            yield

    def _lock(self, file: int, operation: int, model: str, alias: str | None) -> None:
        deadline = time.monotonic() + self._wait_s
        while True:
            try:
                fcntl.flock(file, operation | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise AliasBusyError(model, alias, self._wait_s) from None
                time.sleep(_LOOK_S)


class AdvisoryLocks:
    """PostgreSQL's advisory locks, each decision on a connection of its own outside the pool."""

    def __init__(self, engine: Engine, wait_s: float) -> None:
        self._wait_s, self._turns = wait_s, _Turns(wait_s)
        self._engine = create_engine(
            engine.url,
            poolclass=NullPool,
            isolation_level="AUTOCOMMIT",
            connect_args={"connect_timeout": 5, "options": f"-clock_timeout={max(1, int(wait_s * 1000))}"},
        )

    @contextlib.contextmanager
    def alone(self, model: str, alias: str | None) -> Iterator[None]:
        """See `AliasLocks`. The locks end with the connection."""
        with self._turns.turn(model, alias):
            try:
                connection = self._engine.connect()
            except SQLAlchemyError as error:
                raise DatabaseUnavailableError from error
            try:
                for name, operation in _needed(model, alias):
                    key = int.from_bytes(hashlib.sha256(f"atelier:{name}".encode()).digest()[:8], "big", signed=True)
                    function = "pg_advisory_lock" if operation == "alone" else "pg_advisory_lock_shared"
                    try:
                        connection.execute(text(f"SELECT {function}(:key)"), {"key": key})
                    except OperationalError as error:
                        if getattr(error.orig, "pgcode", None) == "55P03":  # lock_not_available
                            raise AliasBusyError(model, alias, self._wait_s) from None
                        raise DatabaseUnavailableError from error
                yield
            finally:
                with contextlib.suppress(SQLAlchemyError):
                    connection.close()


def _needed(model: str, alias: str | None) -> list[tuple[str, str]]:
    """Names and ways of holding, in the order that every holder keeps."""
    if alias is None:
        return [(f"model\0{model}", "alone")]
    return [(f"model\0{model}", "shared"), (f"alias\0{model}\0{alias}", "alone")]
