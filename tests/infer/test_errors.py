"""The tree, its drawing and the table of HTTP statuses agree."""

from __future__ import annotations

import re

from atelier_infer import errors
from atelier_infer.problems import TYPES


def subclasses(kind: type) -> set[type]:
    below = {deeper for direct in kind.__subclasses__() for deeper in subclasses(direct)}  # type: ignore[var-annotated]
    return below | set(kind.__subclasses__())


def ours() -> set[type]:
    return {kind for kind in subclasses(errors.InferError) if kind.__module__ == errors.__name__}


def test_every_leaf_has_a_status() -> None:
    leaves = {kind for kind in ours() if not subclasses(kind) & ours()}
    assert set(TYPES) == leaves


def test_the_docstring_shows_the_tree() -> None:
    results = re.findall(r"^(.*?)(\w+Error)", errors.__doc__, re.M)
    depths = {name: len(indent) // 4 for indent, name in results}
    assert set(depths) == {kind.__name__ for kind in ours()} | {"InferError"}
    assert all(depths[kind.__name__] == depths[kind.__base__.__name__] + 1 for kind in ours())
