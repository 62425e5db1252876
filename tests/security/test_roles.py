"""Each cell of the table of roles and actions in docs/explanation/security.md, tried against the running services."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from atelier_contracts.names import TAG_PROMOTED_DIGEST

from ..integration.containers import ROLES
from . import service_checks
from .attacks.attack import API, FILES, V3, version
from .environment import CHECKS, Environment
from .sending import Body, send
from .services import MODEL, TOKENS, WISH, Services
from .test_attacks import fill_placeholders

TEXT = (Path(__file__).parents[2] / "docs/explanation/security.md").read_text()
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
    "change an artifact of a registered version": ("PUT", FILES + "/{e}/{r}/artifacts/model/weights.bin", b"evil"),
    "read an object outside runs, models and traces": ("GET", FILES + "/mlflow.env", None),
    "register a model": ("POST", API + "/registered-models/create", {"name": "model of {user}"}),
    "register a version": ("POST", API + "/model-versions/create", version("runs:/{own}/model") | SPARE),
    "register a version with a promotion tag": (
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


def is_allowed_on_tracking(environment: Environment, role: str, action: str) -> bool:
    """Whether tracking lets the role do it: whatever MLflow itself thinks of the request."""
    method, path, body = TRACKING[action]
    names = environment.names | {"user": USERS[role], "spare": "roles"}
    status = send(environment.tracking, method, fill_placeholders(path, names), USERS[role], fill_placeholders(body, names), {})
    assert status not in (0, 401), status
    return status != 403


OURS = f"/models/{MODEL}"
REASON = {"reason": "a role"}
DRY = REASON | {"dry_run": True}
NOBODYS = f"/decisions/{2**63 - 1}"
REGISTRY: dict[str, tuple[str, str, dict[str, Any] | None]] = {
    "see models, versions and aliases": ("GET", OURS, None),
    "see decisions": ("GET", OURS + "/history", None),
    "follow events": ("GET", "/events?after=0&follow=false", None),
    "read metrics": ("GET", "/metrics", None),
    "ask for a verdict": ("GET", OURS + "/versions/1/verdict", None),
    "see a style": ("GET", OURS + "/style", None),
    "see a preview": ("GET", OURS + "/versions/1/preview", None),
    "edit a style": ("PATCH", OURS + "/style", REASON | {"style": {}}),
    "have infer generate images": ("POST", OURS + "/generate", {"versions": [1], "images": [{"prompt": "a cat", "steps": 1}]}),
    "promote": ("POST", OURS + "/versions/1/promote", DRY),
    "roll back": ("POST", OURS + "/rollback", DRY),
    "retire": ("POST", OURS + "/versions/999/retire", REASON),
    "approve": ("POST", NOBODYS + "/approve", REASON),
    "reject": ("POST", NOBODYS + "/reject", REASON),
    "force": ("POST", OURS + "/versions/1/promote", DRY | {"force": True}),
    "see subscribers": ("GET", "/subscribers", None),
    "ping a subscriber": ("POST", "/subscribers/ci/ping", None),
}
INFER: dict[str, tuple[str, str, dict[str, Any] | None]] = {
    "see what is loaded": ("GET", "/models", None),
    "see versions": ("GET", "/versions", None),
    "see a preview": ("GET", "/versions/1/preview", None),
    "read metrics": ("GET", "/metrics", None),
    "generate": ("POST", "/generate", WISH),
    "generate with any version": ("POST", "/generate", WISH | {"version": 1}),
    "create a job": ("POST", "/jobs", WISH),
    "generate with OpenAI's client": ("POST", "/v1/images/generations", {"prompt": "a cat", "steps": 1}),
    "verify an image": ("POST", "/verify", {}),
    "see somebody else's job": ("GET", "{job}", None),
    "cancel somebody else's job": ("DELETE", "{job}", None),
    "stage a version": ("POST", "/stage", {"version": 1}),
}
ACTIONS = {"tracking": TRACKING, "registry-api": REGISTRY, "infer": INFER}
TOKEN = {"registry": "registry-api"} | {role: user for user, role in TOKENS.items() if user in ("rita", "theo", "pia", "ada")}


@pytest.fixture(scope="module")
def job(services: Services) -> str:
    """Of the token `infer`, which is nobody's in the table."""
    answer = services.request("infer", "infer", "POST", "/jobs", WISH)
    assert answer.status == 202, answer.body
    return answer.headers["location"]


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
def spare(environment: Environment) -> None:
    """A model and a version that the actions may change."""
    environment.tracking.call("theo", "POST", "registered-models/create", {"name": "roles"})
    made = fill_placeholders(version("runs:/{own}/model") | {"name": "roles"}, environment.names)
    environment.tracking.call("theo", "POST", "model-versions/create", made)


def test_every_tested_action_is_in_the_documentation() -> None:
    found = {service: {action for name, action, *_ in cells() if name == service} for service in ACTIONS}
    assert found == {service: set(actions) for service, actions in ACTIONS.items()}  # type: ignore[call-overload]
    assert {service for service, *_ in cells()} == set(ACTIONS)
    assert len({(service, action, role) for service, action, role, _ in cells()}) == len(cells())


@pytest.mark.parametrize(("service", "action", "role", "may"), [cell for cell in cells() if cell[0] == "tracking"])
def test_roles_in_tracking_are_as_documented(
    environment: Environment, spare: None, service: str, action: str, role: str, may: bool
) -> None:
    assert is_allowed_on_tracking(environment, role, action) == may
    for check in ("files", "aliases", "tags"):
        CHECKS[check](environment)


@pytest.mark.parametrize(("service", "action", "role", "may"), [cell for cell in cells() if cell[0] != "tracking"])
def test_roles_in_the_services_are_as_documented(
    services: Services, job: str, service: str, action: str, role: str, may: bool
) -> None:
    """Whatever the service itself thinks of the request. Somebody else's job is as one that does not exist."""
    method, path, body = ACTIONS[service][action]  # type: ignore[index]
    answer = services.request(service, TOKEN[role], method, path.replace("{job}", job), body)
    assert answer.status not in (401, 500, 503), answer.body
    refused = (403, 404) if "{job}" in path else (403,)
    assert (answer.status not in refused) == may
    service_checks.CHECKS["champion"](services)
