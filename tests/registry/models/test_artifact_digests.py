"""A version is what its digest says: decisions are about files, and nobody's files change underneath one."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from atelier_contracts.manifests import AdapterManifest
from atelier_contracts.names import ADAPTER_FILE, EVIDENCE_FILE, TAG_PROMOTED_DIGEST, WEIGHTS_FILE
from atelier_registry.config.policy import Policy, read_policy
from atelier_registry.models.artifact_digests import AdapterDigests
from atelier_registry.models.integrity_monitor import IntegrityMonitor
from atelier_registry.storage import hash_chain
from atelier_registry.storage.entries import DecisionFacts
from atelier_registry.storage.ledger import Ledger

from ..adapter_files import ADAPTER, EVIDENCE, FILES
from ..conftest import Api
from ..fake_infer_client import FakeInferClient
from ..fake_registry import FakeRegistry
from ..real_registry import RealWorld

DIGEST = ADAPTER.digest()
KIND = {"atelier.kind": "adapter"}


def other_weights(text: str) -> tuple[dict[str, str], str, str]:
    """Files of other weights that agree with each other."""
    import hashlib

    sha256 = hashlib.sha256(text.encode()).hexdigest()
    manifest = AdapterManifest(**(ADAPTER.model_dump() | {"weights_sha256": sha256}))
    return {WEIGHTS_FILE: text, ADAPTER_FILE: manifest.model_dump_json()}, sha256, manifest.digest()


def test_a_promotion_records_the_digest_everywhere(
    start: Callable[..., Api], world: FakeRegistry | RealWorld, name: str
) -> None:
    world.add_model(name)
    world.add_version(name, tags=KIND, files=FILES)
    api = start(world.registry)
    decision = api.promote(name, 1).json()
    assert decision["adapter_digest"] == DIGEST
    assert world.registry.version(name, 1).tags[TAG_PROMOTED_DIGEST] == DIGEST
    assert api.get(f"/models/{name}/aliases/champion").json()["adapter_digest"] == DIGEST
    assert api.get(f"/decisions/{decision['id']}").json()["adapter_digest"] == DIGEST
    told = api.get("/events", follow="false", after=0).text
    assert f'"adapter_digest":"{DIGEST}"' in told
    assert decision["chain_hash"] in told


def test_inconsistent_files_are_refused_even_with_force(
    start: Callable[..., Api], world: FakeRegistry | RealWorld, name: str
) -> None:
    world.add_model(name)
    world.add_version(name, tags=KIND, files=FILES | {WEIGHTS_FILE: "other weights"})
    world.add_version(name, tags=KIND, files={EVIDENCE_FILE: FILES[EVIDENCE_FILE]})
    api = start(world.registry).as_("ada")
    for number, told in ((1, "adapter.json names"), (2, "it has no adapter.json")):
        answer = api.promote(name, number, force=True)
        assert answer.status_code == 409
        assert told in answer.json()["detail"]
    assert world.registry.model(name).aliases == {}


def test_a_copy_of_good_evidence_does_not_pass(start: Callable[..., Api], world: FakeRegistry | RealWorld, name: str) -> None:
    """The forgery that the default policy took: manifest and evidence of a good version beside other weights."""
    files, _, _ = other_weights("worse weights")
    world.add_model(name)
    world.add_version(name, tags=KIND, files=files | {EVIDENCE_FILE: FILES[EVIDENCE_FILE]})
    answer = start(world.registry, policy=read_policy()).promote(name, 1)
    assert answer.status_code == 409
    assert "was measured on weights with the sha256" in answer.json()["detail"]


def test_evidence_without_weights_does_not_count(start: Callable[..., Api], fake: FakeRegistry, name: str) -> None:
    fake.add_model(name)
    old = EVIDENCE.model_copy(update={"weights_sha256": None})
    fake.add_version(name, tags=KIND, files=FILES | {EVIDENCE_FILE: old.model_dump_json()})
    answer = start(fake, policy=read_policy()).promote(name, 1)
    assert "does not name the weights it is about" in answer.json()["detail"]


def test_infer_must_load_the_files_that_are_decided_on(
    start: Callable[..., Api], fake: FakeRegistry, adapters: str, infer_client: FakeInferClient
) -> None:
    api = start(fake, policy=Policy.model_validate({"default": {"champion": {"loads": True}}}))
    assert api.promote(adapters, 1).status_code == 200
    assert infer_client.digests == [DIGEST]


def test_a_version_with_changed_files_cannot_be_promoted_again(api: Api, fake: FakeRegistry, adapters: str) -> None:
    api.promote(adapters, 1)
    api.promote(adapters, 2)
    files, _, digest = other_weights("planted")
    for file, text in files.items():
        fake.overwrite(adapters, 1, file, text)
    for answer in (api.roll_back(adapters), api.promote(adapters, 1), api.as_("ada").promote(adapters, 1, force=True)):
        assert answer.status_code == 409
        assert f"an earlier decision recorded the digest {DIGEST}" in answer.json()["detail"]
        assert digest in answer.json()["detail"]
    assert fake.model(adapters).aliases == {"champion": 2}


def test_files_changed_while_infer_generates_are_evaluated_again(
    start: Callable[..., Api], fake: FakeRegistry, adapters: str, infer_client: FakeInferClient
) -> None:
    """What infer showed counts for the files that it showed, and no others."""
    api = start(fake, policy=Policy.model_validate({"default": {"champion": {"loads": True}}}))
    files, _, digest = other_weights("planted")

    def plant() -> None:
        infer_client.before = lambda: None
        for file, text in files.items():
            fake.overwrite(adapters, 3, file, text)

    infer_client.before = plant
    assert api.promote(adapters, 3).json()["adapter_digest"] == digest
    assert infer_client.digests == [DIGEST, digest]


@pytest.mark.parametrize("what", ["retired", "tag", "evidence"])
def test_what_changed_before_the_lock_counts(
    start: Callable[..., Api], fake: FakeRegistry, adapters: str, infer_client: FakeInferClient, what: str
) -> None:
    """Everything that the rules stand on is read inside the lock: nothing that was true before it is enough."""
    rules = {"loads": True, "output_finite": True, "tags": {"reviewed": "yes"}}
    api = start(fake, policy=Policy.model_validate({"default": {"champion": rules}}))
    fake.set_tag(adapters, 1, "reviewed", "yes")

    def change() -> None:
        infer_client.before = lambda: None
        if what == "retired":
            assert api.post(f"/models/{adapters}/versions/1/retire", {"reason": "unsafe"}).status_code == 200
        elif what == "tag":
            fake.set_tag(adapters, 1, "reviewed", "no")
        else:
            bad = EVIDENCE.model_copy(update={"output_finite": False})
            fake.overwrite(adapters, 1, EVIDENCE_FILE, bad.model_dump_json())

    infer_client.before = change
    answer = api.promote(adapters, 1)
    assert answer.status_code == 409
    assert {"retired": "was retired", "tag": "reviewed=no", "evidence": "NaN or infinity"}[what] in answer.json()["detail"]
    assert fake.model(adapters).aliases == {}


def test_an_approval_is_for_the_files_that_were_proposed(start: Callable[..., Api], fake: FakeRegistry, adapters: str) -> None:
    api = start(fake, policy=Policy.model_validate({"default": {"champion": {"approval": True}}}))
    proposal = api.promote(adapters, 1).json()
    for file, text in other_weights("planted")[0].items():
        fake.overwrite(adapters, 1, file, text)
    answer = api.as_("ada").post(f"/decisions/{proposal['id']}/approve", {"reason": "looked at"})
    assert answer.status_code == 409
    assert DIGEST in answer.json()["detail"]
    assert fake.model(adapters).aliases == {}


def test_not_worse_than_the_champion_by_default(start: Callable[..., Api], fake: FakeRegistry, name: str) -> None:
    def files(loss: float, data: str = "e" * 64) -> dict[str, str]:
        evidence = EVIDENCE.model_copy(update={"validation_loss": loss, "validation_digest": data})
        return FILES | {EVIDENCE_FILE: evidence.model_dump_json()}

    fake.add_model(name)
    for each in (files(0.228), files(0.277), files(0.277, "f" * 64), files(0.228), files(0.2)):
        fake.add_version(name, tags=KIND, files=each)
    api = start(fake, policy=read_policy())
    assert api.promote(name, 1).status_code == 200
    worse = api.promote(name, 2)
    assert worse.status_code == 409
    assert "validation_loss is 0.277 against 0.228" in worse.json()["detail"]
    assert api.promote(name, 4).status_code == 200  # as good is not worse
    assert api.promote(name, 5).status_code == 200
    assert api.promote(name, 3).status_code == 200  # measured on other data: nothing to compare


def earlier_release(ledger: Ledger, model: str, alias: str, *numbers: int) -> None:
    """Promotions as a release kept them that knew no digests."""
    before = None
    for number in numbers:
        facts = DecisionFacts("pia", "promote", model, alias, before, number, "better", details={"verdicts": []})
        ledger.close(ledger.open("begun", facts), "done", "pia", "")
        before = number


def test_digests_of_earlier_promotions_are_recorded_at_the_start(
    start: Callable[..., Api], world: FakeRegistry | RealWorld, name: str, ledger: Ledger
) -> None:
    world.add_model(name)
    for _ in range(3):
        world.add_version(name, tags=KIND, files=FILES)
    earlier_release(ledger, name, "champion", 1, 2)
    world.point(name, "champion", 2)
    api = start(world.registry)
    recorded = [decision for decision in api.history(name) if decision["action"] == "record"]
    assert [(each["to_version"], each["adapter_digest"], each["actor"]) for each in recorded] == [
        (2, DIGEST, "registry-api"),
        (1, DIGEST, "registry-api"),
    ]
    for number, tag in ((1, DIGEST), (2, DIGEST), (3, None)):
        assert world.registry.version(name, number).tags.get(TAG_PROMOTED_DIGEST) == tag
    assert hash_chain.verify(ledger.chain.rows()).entries == 6
    assert api.roll_back(name).json()["to_version"] == 1
    start(world.registry)
    assert len([each for each in api.history(name) if each["action"] == "record"]) == 2


def test_digests_are_recorded_once_mlflow_answers(
    start: Callable[..., Api], fake: FakeRegistry, adapters: str, ledger: Ledger
) -> None:
    """A service that starts before MLflow does is no reason to leave a champion without its digest."""
    earlier_release(ledger, adapters, "champion", 1)
    fake.point(adapters, "champion", 1)
    fake.down = True
    api = start(fake, alias_poll_s=0.02)
    assert [each for each in ledger.page(adapters, limit=9) if each.action == "record"] == []
    fake.down = False
    for _ in range(500):
        if fake.version(adapters, 1).tags.get(TAG_PROMOTED_DIGEST) == DIGEST:
            break
        threading.Event().wait(0.02)
    assert fake.version(adapters, 1).tags[TAG_PROMOTED_DIGEST] == DIGEST
    assert api.history(adapters)[0]["action"] == "record"


def test_an_outside_move_keeps_the_decided_digest(api: Api, fake: FakeRegistry, adapters: str) -> None:
    api.promote(adapters, 1)
    api.promote(adapters, 2)
    for file, text in other_weights("planted")[0].items():
        fake.overwrite(adapters, 1, file, text)
    fake.point(adapters, "champion", 1)
    api.promote(adapters, 3)
    outside = next(each for each in api.history(adapters) if each["action"] == "outside")
    assert outside["adapter_digest"] == DIGEST
    assert fake.version(adapters, 1).tags[TAG_PROMOTED_DIGEST] == DIGEST


def test_a_recreated_model_has_new_versions(api: Api, fake: FakeRegistry, adapters: str) -> None:
    """Version numbers of a deleted model are given out again; they are other versions."""
    api.promote(adapters, 1)
    fake.delete_model(adapters)
    fake.add_model(adapters)
    files, _, digest = other_weights("another style")
    fake.add_version(adapters, tags=KIND, files=files)
    assert api.promote(adapters, 1).json()["adapter_digest"] == digest


@pytest.mark.parametrize("file", [WEIGHTS_FILE, ADAPTER_FILE])
def test_changed_files_are_shown_and_logged(
    start: Callable[..., Api], fake: FakeRegistry, adapters: str, file: str, caplog: pytest.LogCaptureFixture
) -> None:
    api = start(fake, integrity_check_s=0.02)
    api.promote(adapters, 1)
    found = threading.Event()
    fake.overwrite(adapters, 1, file, other_weights("planted")[0][file])

    def reported() -> list[str]:
        return api.get(f"/models/{adapters}", headers={"Cache-Control": "no-cache"}).json()["problems"]

    for _ in range(500):
        if reported():
            break
        found.wait(0.02)
    [problem] = reported()
    assert f"version 1 were changed after the decision, which recorded the digest {DIGEST}" in problem
    assert api.get(f"/models/{adapters}/aliases/champion").json()["problem"] == problem
    assert problem in api.get(f"/models/{adapters}/versions/1").json()["problems"]
    assert "files of a version changed" in caplog.text
    fake.overwrite(adapters, 1, file, (FILES | {WEIGHTS_FILE: "weights"})[file])
    for _ in range(500):
        if not reported():
            break
        found.wait(0.02)
    assert reported() == []


def test_a_wrong_digest_tag_is_corrected(fake: FakeRegistry, api: Api, adapters: str, ledger: Ledger) -> None:
    api.promote(adapters, 1)
    fake.set_tag(adapters, 1, TAG_PROMOTED_DIGEST, "f" * 64)
    IntegrityMonitor(fake, ledger, AdapterDigests(fake, ledger), 3600).check()
    assert fake.version(adapters, 1).tags[TAG_PROMOTED_DIGEST] == DIGEST
