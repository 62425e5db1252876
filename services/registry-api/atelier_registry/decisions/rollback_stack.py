"""Which version a roll back goes to: a stack of versions, replayed from the decisions on one alias.

A promotion puts its version on top. A roll back takes versions off until its own is on top, so that rolling back twice goes
further back. A version that the alias was moved to by other hands is put on the stack as if it had been promoted.
"""

from __future__ import annotations

from collections.abc import Iterable

from atelier_registry.storage.ledger import Move


def stacked(moves: Iterable[Move]) -> list[int]:
    """Versions that an alias can go back to, the last one on top; no two neighbours are equal.

    Args:
        moves: where one alias went, oldest first.
    """
    stack: list[int] = []
    for move in moves:
        if move.from_version is not None:
            _put(stack, move.from_version)
        if move.action == "rollback" and move.to_version in stack:
            while stack[-1] != move.to_version:
                stack.pop()
        elif move.to_version is not None:  # None: somebody deleted the alias
            _put(stack, move.to_version)
    return stack


def previous(stack: list[int], present: int) -> int | None:
    """The version that an alias pointed to before `present`; None where none is known."""
    return next((version for version in reversed(stack) if version != present), None)


def _put(stack: list[int], version: int) -> None:
    if not stack or stack[-1] != version:
        stack.append(version)
