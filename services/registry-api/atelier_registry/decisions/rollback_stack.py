"""Which version a roll back goes to: the top but one of a stack that is replayed from the decisions on an alias.

A promotion puts its version on top. A roll back removes versions until its own is on top, so that rolling back twice goes
further back. A version that the alias was pointed at outside registry-api counts as promoted.
"""

from __future__ import annotations

from collections.abc import Iterable

from atelier_registry.storage.alias_moves import AliasMove


def build_stack(moves: Iterable[AliasMove]) -> list[int]:
    """Versions that an alias can go back to, the last one on top; no two neighbours are equal.

    Args:
        moves: of one alias, oldest first.
    """
    stack: list[int] = []
    for move in moves:
        if move.from_version is not None:
            _push(stack, move.from_version)
        if move.action == "rollback" and move.to_version in stack:
            while stack[-1] != move.to_version:
                stack.pop()
        elif move.to_version is not None:  # None: the alias was deleted
            _push(stack, move.to_version)
    return stack


def previous(stack: list[int], current: int) -> int | None:
    """The version that an alias pointed at before `current`; None where there is none."""
    return next((version for version in reversed(stack) if version != current), None)


def _push(stack: list[int], version: int) -> None:
    if not stack or stack[-1] != version:
        stack.append(version)
