"""Keeps the chain's newest entry where the database's user cannot write: as a tag in MLflow.

Whoever can write to the database can compute a new chain that is right in itself. It then no longer holds the entry that the
tag names. So the tag is moved on only after the entry that it names now was found where it was.
"""

from __future__ import annotations

import logging
import re
import threading
from itertools import pairwise

from atelier_registry.errors import InvalidArgumentError, RegistryApiError
from atelier_registry.models.model_registry import ModelRegistry
from atelier_registry.storage import hash_chain
from atelier_registry.storage.ledger import Ledger

log = logging.getLogger(__name__)

RETRY_S = 5.0
_PAGE = 500


class ChainAnchor:
    """A thread that writes the newest entry's number and hash after each decision. Safe to use from several threads.

    Args:
        registry: keeps the tag.
        ledger: holds the chain.
    """

    def __init__(self, registry: ModelRegistry, ledger: Ledger) -> None:
        self._registry, self._ledger = registry, ledger
        self._changed, self._stopping = threading.Event(), False
        self._reported = ""
        self.problem: str | None = None
        """Why the chain is not what it was when it was anchored; None while it is."""
        self._thread = threading.Thread(target=self._run, name="chain-anchor", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._changed.set()
        self._thread.start()

    def stop(self, patience_s: float) -> None:
        """Ends after the entry that is being written."""
        self._stopping = True
        self._changed.set()
        self._thread.join(patience_s)

    def nudge(self) -> None:
        """There may be a new entry. From any thread; returns at once."""
        self._changed.set()

    def advance(self) -> None:
        """Anchors the newest entry, if what was anchored before is still where it was.

        Raises:
            BrokenChainError: it is not, or what follows it is no chain.
            UnavailableError: MLflow or the database does not answer.
        """
        number, digest = self._ledger.head()
        anchored = parse_anchor(self._registry.chain_head())
        if anchored == (number, digest):
            return
        if anchored is not None:
            self._follow(*anchored)
        if number:
            self._registry.set_chain_head(f"{number}:{digest}")

    def _follow(self, number: int, digest: str) -> None:
        rows = self._ledger.rows_from(number, _PAGE)
        if not rows or rows[0]["id"] != number or rows[0]["hash"] != digest or hash_chain.digest(rows[0]) != digest:
            found = rows[0]["hash"] if rows and rows[0]["id"] == number else "missing"
            raise hash_chain.BrokenChainError(
                f"entry {number} was anchored with the hash {digest}; in the database it is {found}"
            )
        while True:
            for before, row in pairwise(rows):
                if (
                    row["id"] != before["id"] + 1
                    or row["previous_hash"] != before["hash"]
                    or row["hash"] != hash_chain.digest(row)
                ):
                    raise hash_chain.BrokenChainError(f"entry {row['id']} does not follow entry {before['id']}")
            if len(rows) < _PAGE:
                return
            rows = self._ledger.rows_from(rows[-1]["id"], _PAGE)

    def _run(self) -> None:
        while True:
            self._changed.wait()
            self._changed.clear()
            if self._stopping:
                return
            self._try()

    def _try(self) -> None:
        try:
            self.advance()
            self.problem, self._reported = None, ""
        except hash_chain.BrokenChainError as error:
            self.problem = f"the decisions were changed outside this service: {error}"
            if self._reported != self.problem:
                log.error("%s; the anchor stays where it is", self.problem)
            self._reported = self.problem
        except (RegistryApiError, InvalidArgumentError) as error:
            if self._reported != str(error):
                log.warning("the newest decision is not anchored yet: %s", error)
            self._reported = str(error)
            retry = threading.Timer(RETRY_S, self._changed.set)
            retry.daemon = True
            retry.start()
        except Exception:
            log.exception("anchoring the newest decision failed")


def parse_anchor(text: str | None) -> tuple[int, str] | None:
    """Number and hash of an anchored entry; None where nothing was anchored yet.

    Raises:
        BrokenChainError: the tag was written by somebody else.
    """
    if text is None:
        return None
    if (match := re.fullmatch(r"([1-9][0-9]{0,18}):([0-9a-f]{64})", text)) is None:
        raise hash_chain.BrokenChainError(f"the anchor must be ENTRY:HASH; found {text[:100]!r}")
    return int(match[1]), match[2]
