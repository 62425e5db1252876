"""The hash chain over the entries of the ledger, as pure functions: a copy of the table can be verified anywhere."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

GENESIS = "0" * 64
"""`previous_hash` of the first entry."""


class BrokenChainError(ValueError):
    """An entry is missing, was added, or was changed. The message names the first one."""


@dataclass(frozen=True)
class VerifiedChain:
    """An intact chain: the number of its entries, and the hash of the last."""

    entries: int
    head: str


def timestamp(moment: datetime) -> str:
    """UTC with microseconds, so that text order is time order."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def canonical(value: Any) -> str:
    """JSON with a single spelling for each value: sorted keys, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(row: Mapping[str, Any]) -> str:
    """sha256 of every column except `hash`; `previous_hash` is included."""
    return hashlib.sha256(canonical({name: value for name, value in row.items() if name != "hash"}).encode()).hexdigest()


def verify(
    rows: Iterable[Mapping[str, Any]], head: str | None = None, anchors: Mapping[str, tuple[int, str]] = MappingProxyType({})
) -> VerifiedChain:
    """Walks the chain.

    Args:
        rows: every entry, by number.
        head: a hash noted earlier; it must occur, which shows that no entry up to it was removed or rewritten.
        anchors: name of a store outside the database to the number and hash of an entry that must still be there.

    Raises:
        BrokenChainError: at the first difference.
    """
    previous, count, seen = GENESIS, 0, head is None or head == GENESIS
    for row in rows:
        count += 1
        if row["id"] != count:
            raise BrokenChainError(f"entry {count} is missing: entry {count - 1} is followed by entry {row['id']}")
        if row["previous_hash"] != previous:
            raise BrokenChainError(
                f"entry {count} refers to the hash {row['previous_hash']}, but entry {count - 1} has the hash {previous}"
            )
        if row["hash"] != (expected := digest(row)):
            raise BrokenChainError(
                f"entry {count} was changed: its stored hash is {row['hash']}, the hash of its content is {expected}"
            )
        previous = row["hash"]
        for store, (number, anchored) in anchors.items():
            if count == number and previous != anchored:
                raise BrokenChainError(
                    f"entry {count} was anchored in {store} with the hash {anchored}, and now has the hash {previous}"
                )
        seen = seen or previous == head
    for store, (number, _) in anchors.items():
        if count < number:
            raise BrokenChainError(
                f"entry {number} was anchored in {store}, but the chain ends at entry {count}: the rest was removed"
            )
    if not seen:
        raise BrokenChainError(
            f"the hash {head} does not occur among the {count} entries: the end was removed, or the chain was rewritten"
        )
    return VerifiedChain(count, previous)
