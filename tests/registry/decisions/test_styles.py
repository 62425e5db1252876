"""The style of a model: each version's own, with edits over it that are decisions."""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from atelier_contracts.manifests import AdapterManifest
from atelier_contracts.names import ADAPTER_FILE, TAG_STYLE
from atelier_contracts.promotion import EditStyleRequest
from atelier_contracts.styles import Recommended, RecordedEdits, Style, StyleEdits
from atelier_registry.decisions.styles.style_editor import StyleEditor
from atelier_registry.decisions.styles.style_writer import StyleWriter
from atelier_registry.models.mlflow_registry import MlflowRegistry
from atelier_registry.storage import hash_chain
from atelier_registry.storage.database import open_database
from atelier_registry.storage.ledger import Ledger
from atelier_registry.storage.locks import open_locks
from sqlalchemy import Engine, event

from ...servers import MlflowServer
from ..adapter_files import ADAPTER, FILES
from ..conftest import Api
from ..fake_registry import FakeRegistry
from ..real_registry import RealWorld
from .test_crash_recovery import PIA, Countdown, around, dies

OWN = Style(title="Ink", licence="MIT", recommended=Recommended(steps=30, scale=0.8))
STYLED = FILES | {ADAPTER_FILE: ADAPTER.model_copy(update={"style": OWN}).model_dump_json()}
KIND = {"atelier.kind": "adapter"}


@pytest.fixture
def styled(fake: FakeRegistry, name: str) -> Any:
    """A model with two adapter versions, of which the second has a style of its own."""
    fake.add_model(name)
    fake.add_version(name, tags=KIND, files=FILES)
    fake.add_version(name, tags=KIND, files=STYLED)
    return name


def shown(api: Api, name: str, **params: Any) -> Any:
    response = api.get(f"/models/{name}/style", **params)
    assert response.status_code == 200, response.text
    return response.json()


def tag_of(registry: FakeRegistry | MlflowRegistry, name: str) -> Any:
    return RecordedEdits.model_validate_json(registry.model(name).tags[TAG_STYLE])


def set_values(values: dict[str, float]) -> Any:
    return {name: value for name, value in values.items() if value not in (None, [])}


def test_the_style_of_a_version_is_its_own_until_it_is_edited(api: Api, styled: str) -> None:
    style = shown(api, styled, version=2)
    assert (style["version"], style["style"]["title"], style["decision"]) == (2, "Ink", None)
    assert set(style["sources"].values()) == {"version"}
    nobody = shown(api, styled)
    assert (nobody["version"], nobody["sources"]) == (None, {}), "there is no champion yet"
    api.promote(styled, 2)
    assert shown(api, styled)["style"]["recommended"] == {
        "scale": 0.8, "steps": 30, "scheduler": None, "guidance_scale": None,
    }  # fmt: skip
    assert shown(api, styled, version=1)["style"]["title"] is None


def test_an_edit_is_a_decision_an_event_and_one_tag(
    start: Callable[..., Api], world: FakeRegistry | RealWorld, name: str
) -> None:
    world.add_model(name)
    world.add_version(name, tags=KIND, files=STYLED)
    api = start(world.registry)
    api.promote(name, 1)
    response = api.edit_style(name, {"title": "Brush", "recommended": {"steps": 12}}, reason="quicker")
    decision = response.json()
    assert response.status_code == 200
    assert (decision["action"], decision["outcome"], decision["actor"], decision["reason"]) == (
        "style",
        "done",
        "pia",
        "quicker",
    )
    assert set_values(decision["style"]["before"]) == {}
    assert decision["style"]["after"]["title"] == "Brush"
    assert tag_of(world.registry, name) == RecordedEdits(
        decision=decision["id"], edits=StyleEdits(title="Brush", recommended=Recommended(steps=12))
    )
    style = shown(api, name)
    assert (style["style"]["title"], style["style"]["licence"], style["decision"]) == ("Brush", "MIT", decision["id"])
    assert style["sources"] == {
        "title": "edit", "licence": "version", "recommended.steps": "edit", "recommended.scale": "version",
    }  # fmt: skip
    assert api.history(name)[0] == decision
    second = api.edit_style(name, {"title": None}).json()
    assert second["style"]["before"]["title"] == "Brush"
    assert shown(api, name)["style"]["title"] == "Ink"
    stream = api.get("/events", after=0, follow="false").text
    events = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: ")]
    assert stream.count("event: style.edited") == 2
    assert [each["edits"]["title"] for each in events if each["decision"] in (decision["id"], second["id"])] == ["Brush", None]


def test_repeating_an_edit_changes_nothing(api: Api, fake: FakeRegistry, styled: str) -> None:
    first = api.edit_style(styled, {"title": "Brush"}, headers={"Idempotency-Key": "once"}).json()
    again = api.edit_style(styled, {"title": "Brush"}, headers={"Idempotency-Key": "once"}).json()
    other = api.edit_style(styled, {"title": "Brush"}, reason="again").json()
    assert first["id"] == again["id"] == other["id"]
    reused = api.edit_style(styled, {"title": "Quill"}, headers={"Idempotency-Key": "once"})
    assert (reused.status_code, reused.json()["type"]) == (422, "/problems/idempotency-key-reused")
    assert len(api.history(styled)) == 1


def test_an_edit_may_name_the_style_that_it_is_about(api: Api, styled: str) -> None:
    api.promote(styled, 2)
    etag = api.get(f"/models/{styled}/style").headers["etag"]
    edited = api.edit_style(styled, {"title": "Brush"}, headers={"If-Match": etag})
    assert edited.status_code == 200
    late = api.edit_style(styled, {"title": "Quill"}, headers={"If-Match": etag})
    assert (late.status_code, late.json()["type"]) == (412, "/problems/precondition-failed")
    now = api.get(f"/models/{styled}/style").headers["etag"]
    assert now == edited.headers["etag"] != etag
    assert api.edit_style(styled, {"title": "Quill"}, headers={"If-Match": now}).status_code == 200


@pytest.mark.parametrize(
    ("style", "status", "message"),
    [
        ({"mood": "calm"}, 422, "style.mood"),
        ({"title": 5}, 422, "style.title"),
        ({"recommended": {"steps": 151}}, 422, "less than or equal to 150"),
        ({"recommended": {"scheduler": "lcm"}}, 422, "style.recommended.scheduler"),
        ({"trigger_words": ["a"] * 51}, 422, "at most 50 items"),
        ({"description": "x" * 4990}, 422, "at most 5000 characters together"),
        ({"title": None}, 422, "must edit a field or take an edit back"),
        ({}, 422, "must edit a field or take an edit back"),
    ],
)
def test_a_bad_edit_is_refused_and_not_recorded(
    api: Api, styled: str, style: dict[str, Any], status: int, message: str
) -> None:
    response = api.edit_style(styled, style)
    assert response.status_code == status
    assert message in response.text
    assert api.history(styled) == []


def test_who_may_edit_and_what(api: Api, styled: str) -> None:
    assert api.as_("tom").edit_style(styled, {"title": "Brush"}).status_code == 403
    assert api.as_("rita").get(f"/models/{styled}/style").status_code == 200
    assert api.edit_style("nobody", {"title": "Brush"}).status_code == 404
    assert api.get(f"/models/{styled}/style", version=9).json()["type"] == "/problems/unknown-version"


def outside(api: Api, name: str, count: int = 1) -> Any:
    end = time.monotonic() + 60
    while len(found := [each for each in api.history(name) if each["action"] == "outside"]) < count:
        assert time.monotonic() < end, "no decision was made of it"
        time.sleep(0.02)
    return found


def wait_for_tag(registry: FakeRegistry | MlflowRegistry, name: str, expected: RecordedEdits) -> None:
    end = time.monotonic() + 60
    while registry.model(name).tags.get(TAG_STYLE) != expected.tag():
        assert time.monotonic() < end, registry.model(name).tags
        time.sleep(0.02)


def test_an_edit_around_registry_api_becomes_a_decision(
    start: Callable[..., Api], world: FakeRegistry | RealWorld, name: str
) -> None:
    world.add_model(name)
    api = start(world.registry, alias_poll_s=0.1)
    first = api.edit_style(name, {"title": "Brush"}).json()
    world.tag_model(name, TAG_STYLE, '{"decision": 1, "edits": {"title": "Quill"}}')
    [found] = outside(api, name)
    assert (found["actor"], found["style"]["before"]["title"], found["style"]["after"]["title"]) == (
        "outside",
        "Brush",
        "Quill",
    )
    wait_for_tag(world.registry, name, RecordedEdits(decision=found["id"], edits=StyleEdits(title="Quill")))
    assert (shown(api, name)["style"]["title"], found["id"] > first["id"]) == ("Quill", True)
    world.tag_model(name, TAG_STYLE, None)
    assert outside(api, name, 2)[0]["style"]["after"]["title"] is None


def test_a_tag_that_cannot_be_read_is_replaced(start: Callable[..., Api], fake: FakeRegistry, styled: str) -> None:
    api = start(fake, alias_poll_s=0.02)
    recorded = RecordedEdits(decision=api.edit_style(styled, {"title": "Brush"}).json()["id"], edits=StyleEdits(title="Brush"))
    for text in ("nonsense", '{"decision": 1, "edits": {"mood": 1}}', recorded.tag().replace(":", ": ", 1)):
        fake.tag_model(styled, TAG_STYLE, text)
        wait_for_tag(fake, styled, recorded)
    assert [each["action"] for each in api.history(styled)] == ["style"]


def test_deleting_a_model_deletes_its_edits(start: Callable[..., Api], fake: FakeRegistry, styled: str) -> None:
    api = start(fake, alias_poll_s=0.02)
    api.edit_style(styled, {"title": "Brush"})
    fake.delete_model(styled)
    [found] = outside(api, styled)
    assert set_values(found["style"]["after"]) == {}


def parts(tracking_uri: str, database: str | Engine, countdown: Countdown | None = None) -> Any:
    """What one process has that edits styles; it may die around each commit and each write to MLflow."""
    registry, engine = MlflowRegistry(tracking_uri), open_database(database) if isinstance(database, str) else database
    ledger = Ledger(engine)
    if countdown:
        event.listen(engine, "commit", countdown.step)
        registry.set_model_tag = around(registry.set_model_tag, countdown)
        for method in ("open", "close"):
            setattr(ledger, method, around(getattr(ledger, method), countdown))
    writer = StyleWriter(registry, ledger, open_locks(engine, 30))
    return ledger, writer, StyleEditor(registry, ledger, writer), registry


def test_a_process_killed_at_any_step_leaves_nothing_half_done(
    real_world: RealWorld, mlflow_server: MlflowServer, database_url: str, engine: Engine, name: str
) -> None:
    outcomes = set()
    request = EditStyleRequest(reason="clearer", style=StyleEdits(title="Quill"))
    for left in itertools.count():
        model = real_world.add_model(f"{name}-{left}")
        ledger, writer, editor, registry = parts(mlflow_server.uri, engine)
        first = editor.edit(PIA, model, EditStyleRequest(reason="first", style=StyleEdits(title="Brush")))

        def act(model: str = model, left: Any = left) -> None:
            parts(mlflow_server.uri, database_url, Countdown(left))[2].edit(PIA, model, request)

        if not dies(act):
            break
        writer.resolve_interrupted()  # the next start
        assert ledger.pending() == []
        recorded = ledger.style_changes.last(model)
        assert tag_of(registry, model) == recorded
        latest = ledger.page(model, limit=1)[0]
        assert (recorded.decision, recorded.edits.title) == (latest.id, "Brush" if latest == first else "Quill")
        events = [row for row in ledger.outbox.events_after(0, 1000) if row["model"] == model]
        assert events[-1]["edits"] == {"title": recorded.edits.title}
        outcomes.add(recorded.edits.title)
        hash_chain.verify(ledger.chain.rows())
        again = editor.edit(PIA, model, request)
        assert tag_of(registry, model) == RecordedEdits(decision=again.id, edits=StyleEdits(title="Quill"))
        assert [each.action for each in ledger.page(model, limit=50)] == ["style", "style"]
    assert left >= 6  # around: begun, the tag, done
    assert outcomes == {"Brush", "Quill"}


def test_an_edit_during_an_outage_is_carried_out_later(start: Callable[..., Api], fake: FakeRegistry, styled: str) -> None:
    api = start(fake, alias_poll_s=0.02)

    def fail() -> None:
        fake.before_alias = lambda: None
        fake.down = True

    fake.before_alias = fail
    assert api.edit_style(styled, {"title": "Brush"}).status_code == 503
    fake.down = False
    restarted = start(fake)
    assert shown(restarted, styled)["style"]["title"] == "Brush"
    assert tag_of(fake, styled).edits == StyleEdits(title="Brush")
    assert [each["outcome"] for each in restarted.history(styled)] == ["done"]


def test_a_changed_preview_is_a_changed_version(fake: FakeRegistry, name: str) -> None:
    from atelier_registry.models.artifact_digests import AdapterDigests

    fake.add_model(name)
    manifest = ADAPTER.model_copy(update={"preview_sha256": hashlib.sha256(b"mine").hexdigest()})
    files = FILES | {ADAPTER_FILE: manifest.model_dump_json()}
    number = fake.add_version(name, tags=KIND, files=files, preview=b"mine")
    digests = AdapterDigests(fake, None)  # decisions are not looked at
    assert digests.read(fake.version(name, number)).digest == AdapterManifest.model_validate(manifest).digest()
    other = fake.add_version(name, tags=KIND, files=files, preview=b"yours")
    assert digests.read(fake.version(name, other)).problem.startswith("preview.webp has the sha256")
