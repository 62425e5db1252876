"""Locks that allow one decision at a time on each alias, across processes: PostgreSQL advisory locks, or files beside SQLite.

Both kinds end with the process that holds them. A decision holds its model's lock shared and its alias's lock exclusively;
retiring a version holds the model's lock exclusively.
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
from typing import Literal, Protocol
from weakref import WeakValueDictionary

from sqlalchemy import Engine, NullPool, create_engine, text
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from atelier_registry.errors import AliasBusyError, DatabaseUnavailableError

Mode = Literal["exclusive", "shared"]

_POLL_S = 0.01
"""Between two attempts at a file's lock: `flock` cannot wait with a limit."""


class AliasLocks(Protocol):
    """Locks of an alias, or of a whole model."""

    def hold(self, model: str, alias: str | None) -> contextlib.AbstractContextManager[None]:
        """Holds one alias, or every alias of the model for `alias=None`.

        Raises:
            AliasBusyError: another decision held it for too long.
            DatabaseUnavailableError: the database does not answer.
        """


def open_locks(engine: Engine, timeout_s: float) -> AliasLocks:
    """The locks that fit the database: a decision waits `timeout_s` for others."""
    if engine.dialect.name == "postgresql":
        return AdvisoryLocks(engine, timeout_s)
    return FileLocks(Path(f"{engine.url.database}.locks"), timeout_s)


class _ThreadLocks:
    """Threads of one process wait here first, so that at most one of them per alias waits for other processes."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._guard = Lock()
        self._locks: WeakValueDictionary[tuple[str, str | None], Lock] = WeakValueDictionary()

    @contextlib.contextmanager
    def hold(self, model: str, alias: str | None) -> Iterator[None]:
        with self._guard:
            lock = self._locks.setdefault((model, alias), Lock())
        if not lock.acquire(timeout=self._timeout_s):
            raise AliasBusyError(model, alias, self._timeout_s)
        try:
            yield
        finally:
            lock.release()


class FileLocks:
    """`flock` on files in a folder beside the SQLite file. An empty file remains for each alias."""

    def __init__(self, folder: Path, timeout_s: float) -> None:
        self._folder, self._timeout_s, self._threads = folder, timeout_s, _ThreadLocks(timeout_s)

    @contextlib.contextmanager
    def hold(self, model: str, alias: str | None) -> Iterator[None]:
        with self._threads.hold(model, alias), contextlib.ExitStack() as files:
            try:
                self._folder.mkdir(exist_ok=True)
                for name, mode in _lock_order(model, alias):
                    file = os.open(self._folder / hashlib.sha256(name.encode()).hexdigest()[:32], os.O_RDWR | os.O_CREAT, 0o600)
                    files.callback(os.close, file)
                    if not self._acquire(file, fcntl.LOCK_EX if mode == "exclusive" else fcntl.LOCK_SH):
                        raise AliasBusyError(model, alias, self._timeout_s)
            except OSError as error:
                raise DatabaseUnavailableError from error
            yield

    def _acquire(self, file: int, operation: int) -> bool:
        """False where another process held the file's lock until the time was up."""
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                fcntl.flock(file, operation | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                if time.monotonic() > deadline:
                    return False
                time.sleep(_POLL_S)


class AdvisoryLocks:
    """PostgreSQL advisory locks; each decision uses a connection of its own outside the pool, and the locks end with it."""

    def __init__(self, engine: Engine, timeout_s: float) -> None:
        self._timeout_s, self._threads = timeout_s, _ThreadLocks(timeout_s)
        self._engine = create_engine(
            engine.url,
            poolclass=NullPool,
            isolation_level="AUTOCOMMIT",
            connect_args={"connect_timeout": 5, "options": f"-clock_timeout={max(1, int(timeout_s * 1000))}"},
        )

    @contextlib.contextmanager
    def hold(self, model: str, alias: str | None) -> Iterator[None]:
        with self._threads.hold(model, alias):
            try:
                connection = self._engine.connect()
            except SQLAlchemyError as error:
                raise DatabaseUnavailableError from error
            try:
                for name, mode in _lock_order(model, alias):
                    key = int.from_bytes(hashlib.sha256(f"atelier:{name}".encode()).digest()[:8], "big", signed=True)
                    function = "pg_advisory_lock" if mode == "exclusive" else "pg_advisory_lock_shared"
                    try:
                        connection.execute(text(f"SELECT {function}(:key)"), {"key": key})
                    except OperationalError as error:
                        if getattr(error.orig, "pgcode", None) == "55P03":  # lock_not_available
                            raise AliasBusyError(model, alias, self._timeout_s) from None
                        raise DatabaseUnavailableError from error
                yield
            finally:
                with contextlib.suppress(SQLAlchemyError):
                    connection.close()


def _lock_order(model: str, alias: str | None) -> list[tuple[str, Mode]]:
    """Names and modes, in the one order that rules out deadlocks."""
    if alias is None:
        return [(f"model\0{model}", "exclusive")]
    return [(f"model\0{model}", "shared"), (f"alias\0{model}\0{alias}", "exclusive")]
