"""An alias draws with the files that registry-api decided on, or not at all, whoever changed what since."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from atelier_contracts import names
from atelier_contracts.manifests import BundleManifest
from atelier_infer.aliases import last_known_aliases
from atelier_infer.aliases.integrity_monitor import IntegrityMonitor
from atelier_infer.artifacts.artifact_cache import ArtifactCache
from atelier_infer.artifacts.keyed_locks import KeyedLocks

from ..conftest import Service
from ..fake_store import FakeStore
from ..support import changed, verify
from ..tiny_bundle import adapter_tensors, build_adapter


def alias_state(service: Service, name: str = "champion") -> dict[str, Any]:
    return service.client.get("/models").json()["aliases"][name]


def refusal(service: Service) -> str:
    service.wait(lambda: alias_state(service)["problem"])
    return alias_state(service)["problem"]


def plant(store: FakeStore, bundle: tuple[Path, BundleManifest], version: int, seed: int = 77) -> str:
    """Other files under a version, as whoever can write to the bucket would leave them."""
    folder = store.folders[version]
    shutil.rmtree(folder)
    return build_adapter(folder, bundle[1].digest(), adapter_tensors(seed=seed)).digest()


def test_files_changed_before_the_download_are_never_served(
    make_service: Callable[..., Service], store: FakeStore, publish: Callable[..., int], bundle: tuple[Path, BundleManifest]
) -> None:
    number = publish(seed=1)
    store.set_alias("champion", number)
    planted = plant(store, bundle, number)
    service = make_service()
    problem = refusal(service)
    assert store.promoted[number] in problem
    assert planted in problem
    assert service.generate().status_code == 409
    assert service.generate(version=number).status_code == 409  # nor by its number


def test_files_changed_while_served_have_no_effect(
    service: Service, store: FakeStore, bundle: tuple[Path, BundleManifest], tmp_path: Path
) -> None:
    """In memory, and after a restart from the cache: the same bytes are drawn, and /models and the log tell of the change."""
    before = service.generate().content
    served = store.promoted[1]
    plant(store, bundle, 1)
    assert service.generate().content == before
    monitor = IntegrityMonitor(
        cache=ArtifactCache(store, tmp_path / "cache"), tracker=service.app.state.service._tracker, interval_s=3600
    )
    monitor.check()
    assert "the promoted ones are still served" in monitor.problem(1, served)


def test_a_restart_serves_the_promoted_files_from_disk(
    make_service: Callable[..., Service],
    store: FakeStore,
    publish: Callable[..., int],
    bundle: tuple[Path, BundleManifest],
    caplog: pytest.LogCaptureFixture,
) -> None:
    store.set_alias("champion", publish(seed=1))
    first = make_service()
    first.wait(lambda: first.client.get("/readyz").status_code == 200)
    before = first.generate().content
    plant(store, bundle, 1)
    again = make_service(integrity_check_s=0.05)
    again.wait(lambda: again.client.get("/readyz").status_code == 200)
    assert again.generate().content == before
    assert "the promoted ones are still served" in refusal(again)
    assert "files of a served version changed" in caplog.text


def test_missing_files_of_a_served_version_are_reported(
    make_service: Callable[..., Service], store: FakeStore, publish: Callable[..., int]
) -> None:
    store.set_alias("champion", publish(seed=1))
    service = make_service(integrity_check_s=0.05)
    service.wait(lambda: service.client.get("/readyz").status_code == 200)
    assert alias_state(service)["problem"] is None
    (store.folders[1] / names.WEIGHTS_FILE).unlink()
    assert "is missing" in refusal(service)
    assert service.generate().status_code == 200


def test_an_alias_without_a_decision_is_not_served(
    make_service: Callable[..., Service], store: FakeStore, publish: Callable[..., int]
) -> None:
    number = publish(seed=1)
    store.aliases["champion"] = number  # by another client
    service = make_service()
    problem = refusal(service)
    assert "registry-api has not decided on its files" in problem
    assert "ATELIER_INFER_REQUIRE_PROMOTION=false" in problem
    assert service.generate().status_code == 409
    store.set_alias("champion", number)  # recorded: the next look serves it
    service.wait(lambda: alias_state(service)["serving_version"] == number)
    without = make_service(require_promotion=False)
    without.wait(lambda: without.client.get("/readyz").status_code == 200)


def test_a_digest_of_other_files_is_refused(
    make_service: Callable[..., Service], store: FakeStore, publish: Callable[..., int]
) -> None:
    number = publish(seed=1)
    store.set_alias("champion", number)
    store.promoted[number] = "f" * 64
    service = make_service()
    assert f"files of digest {'f' * 64}" in refusal(service)


def test_a_restart_without_tracking_serves_from_disk(
    make_service: Callable[..., Service], store: FakeStore, publish: Callable[..., int], tmp_path: Path
) -> None:
    """Both files by digest and what the aliases were; once tracking answers again, what it says."""
    store.set_alias("champion", publish(seed=1))
    first = make_service()
    first.wait(lambda: first.client.get("/readyz").status_code == 200)
    before = first.generate().content
    store.down = True
    again = make_service()
    again.wait(lambda: again.client.get("/readyz").status_code == 200)
    assert again.client.get("/readyz").json() == {"status": "stale"}
    assert again.generate().content == before
    store.down = False
    store.set_alias("champion", publish(seed=5))
    again.wait(lambda: alias_state(again)["serving_version"] == 2)
    assert again.client.get("/readyz").json() == {"status": "ready"}


def test_changed_files_on_disk_are_not_served_without_tracking(
    make_service: Callable[..., Service], store: FakeStore, publish: Callable[..., int], tmp_path: Path
) -> None:
    store.set_alias("champion", publish(seed=1))
    first = make_service()
    first.wait(lambda: first.client.get("/readyz").status_code == 200)
    first.wait(lambda: (tmp_path / "cache" / last_known_aliases.FILE).exists())
    store.down = True
    weights = tmp_path / "cache" / "adapters" / store.promoted[1] / names.WEIGHTS_FILE
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    again = make_service()
    again.wait(lambda: again.client.get("/models").json()["aliases"].get("champion", {}).get("problem"))
    assert again.generate().status_code == 503


@pytest.mark.parametrize("content", ["", "[]", '{"model": "sketches"}', '{"format": 1, "model": "../x", "aliases": {}}'])
def test_unreadable_last_known_aliases_are_ignored(tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / last_known_aliases.FILE).write_text(content)
    assert last_known_aliases.read(tmp_path, "sketches") is None
    assert "cannot read the last known aliases" in caplog.text


def test_last_known_aliases_of_another_model_are_ignored(tmp_path: Path) -> None:
    last_known_aliases.write(tmp_path, last_known_aliases.LastKnownAliases(model="photos", generation="1", aliases={}))
    assert last_known_aliases.read(tmp_path, "photos") is not None
    assert last_known_aliases.read(tmp_path, "sketches") is None


def test_adapters_of_aliases_count_against_the_limit(
    make_service: Callable[..., Service], store: FakeStore, bundle: tuple[Path, BundleManifest], tmp_path: Path
) -> None:
    """Three aliases of 0.7 MiB in 2 MiB: the one that was asked for least recently goes, the champion stays."""
    big = adapter_tensors(rank=9000)
    for number in range(4):
        build_adapter(tmp_path / f"big {number}", bundle[1].digest(), big | {}, rank=9000, alpha=float(number + 1))
        store.publish_adapter(tmp_path / f"big {number}")
        store.set_alias("champion" if number == 0 else f"style-{number}", number + 1)
    service = make_service(adapter_cache_mib=2)
    service.wait(lambda: service.client.get("/readyz").status_code == 200)
    for name in ("style-1", "style-2", "style-3"):
        assert service.generate(alias=name).status_code == 200
    service.wait(lambda: service.client.get("/models").json()["adapters_mib"] <= 2)
    serving = {name for name, one in service.client.get("/models").json()["aliases"].items() if one["serving_version"]}
    assert "champion" in serving
    assert "style-1" not in serving
    assert service.generate(alias="style-1").status_code == 200  # it comes back when somebody asks


def test_one_lock_does_not_wait_for_another() -> None:
    locks = KeyedLocks()
    with locks.held("bundle"), locks.held("adapter"):
        pass
    with locks.held("bundle"):
        pass
    assert len(locks._locks) == 0


@pytest.mark.parametrize(
    "digest", ["", "..", "/etc", "../bundles/" + "a" * 64, "a" * 63, "A" * 64, "a" * 64 + "\n", "a" * 300, "%2e%2e"]
)
@pytest.mark.parametrize("field", ["bundle_digest", "adapter_digest", "adapters"])
def test_metadata_of_an_image_never_becomes_a_path(service: Service, tmp_path: Path, field: str, digest: str) -> None:
    """Folders with the right names lie in wait: none is touched, and the answer is 422."""

    good = service.generate().content
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / names.BUNDLE_FILE).write_text("{}")
    kept = sorted(path for path in (tmp_path / "cache").rglob("*") if path.is_file())
    value = [{"version": 1, "digest": digest, "weight": 1.0}] if field == "adapters" else digest
    text = {field: value, "adapters": []} if field != "adapters" else {field: value}
    answer = verify(service, changed(good, version="base", **text))  # type: ignore[arg-type]
    assert answer.status_code == 422, answer.text
    answer = verify(service, changed(good, version="base", adapters=[], bundle_digest=str(victim)))
    assert answer.status_code == 422
    assert (victim / names.BUNDLE_FILE).exists()
    assert sorted(path for path in (tmp_path / "cache").rglob("*") if path.is_file()) == kept


def test_a_version_in_metadata_must_be_a_number(service: Service) -> None:

    good = service.generate().content
    for version in ("../../x", "1/..", "0", "01", "1+", "99999999999", "base+1", ""):
        assert verify(service, changed(good, version=version)).status_code == 422
    assert json.loads(verify(service, good).text)["matches"] is True


def test_metadata_with_another_size_is_refused_before_generating(service: Service) -> None:

    good = service.generate().content
    results = service.count("images_total", version="1", alias="champion", outcome="succeeded")
    answer = verify(service, changed(good, width=128, height=128, steps=150))
    assert answer.status_code == 422
    assert "the size in its metadata, 128 x 128 px" in answer.json()["detail"]
    assert service.count("images_total", version="1", alias="champion", outcome="succeeded") == results
