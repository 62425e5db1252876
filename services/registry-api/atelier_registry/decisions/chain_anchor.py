"""Anchors the chain: stores its newest entry where the database user cannot write.

Whoever can write to the database can compute a new chain that is valid in itself, but it no longer holds the anchored entry. So
the anchor moves forward only after the entry that it names was found unchanged.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from itertools import pairwise

from atelier_registry.decisions.anchor_stores import Anchor, AnchorStore
from atelier_registry.errors import RegistryApiError
from atelier_registry.storage import hash_chain
from atelier_registry.storage.hash_chain import BrokenChainError
from atelier_registry.storage.ledger import Ledger

log = logging.getLogger(__name__)

_PAGE_SIZE = 500


class ChainAnchor:
    """A thread that stores the newest entry's number and hash after each decision. Safe to use from several threads.

    Attributes:
        problem: why the chain is not the one that was anchored; None while it is.

    Args:
        stores: where the newest entry is stored.
        ledger: holds the chain.
        retry_s: between two attempts while a store or the database does not answer.
    """

    def __init__(self, stores: Sequence[AnchorStore], ledger: Ledger, retry_s: float = 5.0) -> None:
        self._stores, self._chain, self._retry_s = stores, ledger.chain, retry_s
        self._changed, self._stopping = threading.Event(), False
        self._logged = ""
        self.problem: str | None = None
        self._thread = threading.Thread(target=self._run, name="chain-anchor", daemon=True)

    def start(self) -> None:
        self._changed.set()
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Stops after the entry that is being stored."""
        self._stopping = True
        self._changed.set()
        self._thread.join(timeout_s)

    def notify(self) -> None:
        """There may be a new entry. Returns at once; may be called from any thread."""
        self._changed.set()

    def advance(self) -> None:
        """Stores the newest entry in every store, if the one stored before is unchanged.

        Raises:
            BrokenChainError: it is not, or the entries after it do not form a chain.
            UnavailableError: a store or the database does not answer.
        """
        for store in self._stores:
            anchor = store.read()
            head = self._chain.head()  # after the anchor, which another process may have moved forward
            if anchor == head:
                continue
            if anchor is not None:
                self._check_unchanged_since(anchor, store.name)
            if head[0]:
                store.write(head)

    def _check_unchanged_since(self, anchor: Anchor, store: str) -> None:
        number, digest = anchor
        rows = self._chain.rows_from(number, _PAGE_SIZE)
        if not rows or rows[0]["id"] != number or rows[0]["hash"] != digest or hash_chain.digest(rows[0]) != digest:
            found = rows[0]["hash"] if rows and rows[0]["id"] == number else "missing"
            raise BrokenChainError(
                f"entry {number} was anchored in {store} with the hash {digest}; in the database it is {found}"
            )
        while True:
            for previous, row in pairwise(rows):
                if (
                    row["id"] != previous["id"] + 1
                    or row["previous_hash"] != previous["hash"]
                    or row["hash"] != hash_chain.digest(row)
                ):
                    raise BrokenChainError(f"entry {row['id']} does not follow entry {previous['id']}")
            if len(rows) < _PAGE_SIZE:
                return
            rows = self._chain.rows_from(rows[-1]["id"], _PAGE_SIZE)

    def _run(self) -> None:
        while True:
            self._changed.wait()
            self._changed.clear()
            if self._stopping:
                return
            try:
                self._try_advance()
            except Exception:
                log.exception("anchoring failed")

    def _try_advance(self) -> None:
        try:
            self.advance()
            self.problem, self._logged = None, ""
        except BrokenChainError as error:
            self.problem = f"the decisions were changed outside this service: {error}"
            self._log_once(logging.ERROR, "chain is broken; the anchor stays", self.problem)
        except RegistryApiError as error:
            self._log_once(logging.WARNING, "anchoring delayed", str(error))
            retry = threading.Timer(self._retry_s, self._changed.set)
            retry.daemon = True
            retry.start()

    def _log_once(self, level: int, message: str, reason: str) -> None:
        if self._logged != reason:
            log.log(level, message, extra={"fields": {"reason": reason}})
        self._logged = reason
