"""The hash chain over the decisions: pure functions, so that anybody can check a copy of the table."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

GENESIS = "0" * 64
"""What the first entry has for its predecessor's hash."""


class BrokenChainError(ValueError):
    """An entry is missing, was added, or was changed. The message names the first such place."""


@dataclass(frozen=True)
class Verified:
    """A chain without a fault."""

    entries: int
    head: str


def timestamp(moment: datetime) -> str:
    """UTC with microseconds; the order of texts is the order of times."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def canonical(value: Any) -> str:
    """JSON with one spelling for each value: keys sorted, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(row: Mapping[str, Any]) -> str:
    """sha256 over every column but `hash`, `previous_hash` among them."""
    return hashlib.sha256(canonical({name: value for name, value in row.items() if name != "hash"}).encode()).hexdigest()


def verify(rows: Iterable[Mapping[str, Any]], head: str | None = None, anchor: tuple[int, str] | None = None) -> Verified:
    """Walks the chain.

    Args:
        rows: every entry, in the order of ids.
        head: a hash noted earlier. It must occur, which shows that no entry up to it was cut off or rewritten.
        anchor: number and hash of an entry, as they are kept outside the database. It must be where it was.

    Raises:
        BrokenChainError: at the first fault.
    """
    previous, count, seen = GENESIS, 0, head is None or head == GENESIS
    for row in rows:
        count += 1
        if row["id"] != count:
            raise BrokenChainError(f"entry {count} is missing: after entry {count - 1} comes entry {row['id']}")
        if row["previous_hash"] != previous:
            raise BrokenChainError(
                f"entry {count} follows {row['previous_hash']}, but entry {count - 1} has the hash {previous}"
            )
        if row["hash"] != (expected := digest(row)):
            raise BrokenChainError(f"entry {count} was changed: its hash is {row['hash']}, its content gives {expected}")
        previous = row["hash"]
        if anchor is not None and count == anchor[0] and previous != anchor[1]:
            raise BrokenChainError(f"entry {count} was anchored with the hash {anchor[1]}, and has the hash {previous} now")
        seen = seen or previous == head
    if anchor is not None and count < anchor[0]:
        raise BrokenChainError(f"entry {anchor[0]} was anchored, and the end from entry {count + 1} on is cut off")
    if not seen:
        raise BrokenChainError(
            f"the hash {head} does not occur: the end was cut off, or the chain was rewritten; it has {count} entries"
        )
    return Verified(count, previous)
