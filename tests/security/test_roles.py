"""Each cell of the table of roles and actions in docs/security.md, tried against the running services."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from atelier_contracts.names import TAG_PROMOTED_DIGEST

from ..integration.containers import ROLES
from .attacks import API, FILES, V3, version
from .sending import Body, send
from .test_attacks import filled
from .world import CHECKS, World

TEXT = (Path(__file__).parents[2] / "docs/security.md").read_text()
COLUMNS = ("reader", "trainer", "promoter", "admin", "registry")
USERS = {"registry": "registry"} | {role: user for user, role in ROLES.items() if user != "registry"}

OWN = FILES + "/{e}/{own}/artifacts/role.txt"
SPARE = {"name": "{spare}"}
TRACKING: dict[str, tuple[str, str, Body]] = {
    "search runs": ("POST", API + "/runs/search", {"experiment_ids": ["{e}"]}),
    "download a file": ("GET", FILES + "/{e}/{r}/artifacts/model/weights.bin", None),
    "create a run": ("POST", API + "/runs/create", {"experiment_id": "{e}"}),
    "upload a file": ("PUT", OWN, b"own"),
    "delete a file": ("DELETE", OWN, None),
    "change a file that a version needs": ("PUT", FILES + "/{e}/{r}/artifacts/model/weights.bin", b"evil"),
    "read an object of nobody's": ("GET", FILES + "/mlflow.env", None),
    "register a model": ("POST", API + "/registered-models/create", {"name": "model of {user}"}),
    "register a version": ("POST", API + "/model-versions/create", version("runs:/{own}/model") | SPARE),
    "register a version with a tag of promotion": (
        "POST",
        API + "/model-versions/create",
        version("runs:/{own}/model", tags=[{"key": TAG_PROMOTED_DIGEST + ".tried", "value": "x"}]) | SPARE,
    ),
    "describe a model": ("PATCH", API + "/registered-models/update", {"description": "by {user}"} | SPARE),
    "move an alias": ("POST", API + "/registered-models/alias", {"alias": "tried", "version": "1"} | SPARE),
    "tag a version": ("POST", API + "/model-versions/set-tag", {"version": "1", "key": "tried", "value": "x"} | SPARE),
    "rename a model": ("POST", API + "/registered-models/rename", {"name": "old", "new_name": "new"}),
    "delete a version": ("DELETE", API + "/model-versions/delete", {"version": "999"} | SPARE),
    "see webhooks": ("GET", API + "/webhooks", None),
    "create a workspace": ("POST", V3 + "/workspaces", {"name": "w"}),
    "see secrets of the gateway": ("GET", V3 + "/gateway/secrets/list", None),
    "start a job": ("POST", "/api/3.0/jobs/", {}),
}


def tried_on_tracking(world: World, role: str, action: str) -> bool:
    """Whether tracking lets the role do it: whatever MLflow itself thinks of the request."""
    method, path, body = TRACKING[action]
    names = world.names | {"user": USERS[role], "spare": "roles"}
    status = send(world.tracking, method, filled(path, names), USERS[role], filled(body, names), {})
    assert status not in (0, 401), status
    return status != 403


WALKS: dict[str, Callable[[World, str, str], bool]] = {"tracking": tried_on_tracking}
"""Service to what tries one cell. A service that is in the table must be here."""


def cells() -> list[tuple[str, str, str, bool]]:
    """Service, action, role and whether it may."""
    header = f"| service | action | {' | '.join(COLUMNS)} |"
    found = []
    for line in TEXT[TEXT.index(header) :].splitlines()[2:]:
        if not line.startswith("|"):
            break
        service, action, *answers = [word.strip() for word in line.strip("|").split("|")]
        found += [(service, action, role, answer == "yes") for role, answer in zip(COLUMNS, answers, strict=True)]
        assert set(answers) <= {"yes", "no"}, line
    return found


@pytest.fixture(scope="module")
def spare(world: World) -> None:
    """A model and a version that the actions may change."""
    world.tracking.call("theo", "POST", "registered-models/create", {"name": "roles"})
    made = filled(version("runs:/{own}/model") | {"name": "roles"}, world.names)
    world.tracking.call("theo", "POST", "model-versions/create", made)


def test_the_table_holds_every_action_that_is_tried():
    assert {action for service, action, _, _ in cells() if service == "tracking"} == set(TRACKING)
    assert {service for service, *_ in cells()} == set(WALKS)
    assert len({(service, action, role) for service, action, role, _ in cells()}) == len(cells())


@pytest.mark.parametrize(("service", "action", "role", "may"), cells())
def test_a_role_may_what_the_table_says(world: World, spare: None, service: str, action: str, role: str, may: bool):
    assert WALKS[service](world, role, action) == may
    for check in ("files", "aliases", "tags"):
        CHECKS[check](world)
