"""policy.yaml: read once, with every problem at once; what it asks for decides, and is kept."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from atelier_contracts.names import ADAPTER_FILE
from atelier_contracts.promotion import Decision, RefusedProblem
from atelier_registry.config.policy import AliasPolicy, Policy, read_policy
from atelier_registry.errors import PolicyError
from atelier_registry.storage.ledger import Ledger

from ..adapter_files import EVIDENCE, FILES
from ..conftest import Api
from ..fake_infer_client import FakeInferClient
from ..fake_registry import FakeRegistry
from ..real_registry import RealWorld

DRIFT = {"at_most": 0.3, "images": [{"prompt": "a cat", "seed": 7, "steps": 4, "size": 64}]}


def policy(**champion: Any) -> Policy:
    return Policy.model_validate({"default": {"champion": champion}})


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "policy.yaml"
    file.write_text(textwrap.dedent(text))
    return file


def test_the_built_in_policy_accepts_what_the_trainer_registers(
    start: Callable[..., Api], fake: FakeRegistry, adapters: str, name: str
) -> None:
    api = start(fake, policy=read_policy())
    assert api.promote(adapters, 1).status_code == 200
    fake.add_version(adapters, tags={"atelier.kind": "adapter"}, files={ADAPTER_FILE: FILES[ADAPTER_FILE]})
    refused = api.promote(adapters, 6)
    assert refused.status_code == 409
    assert "it has no evidence.json" in refused.json()["detail"]


def test_the_most_specific_rules_hold(tmp_path: Path) -> None:
    found = read_policy(
        written(
            tmp_path,
            """
            default:
              champion: {output_finite: true}
              "*": {loads: true}
            models:
              ink:
                champion: {approval: true}
              oil:
                "*": {}
            """,
        )
    )
    assert found.of("pencil", "champion") == AliasPolicy(output_finite=True)
    assert found.of("pencil", "candidate") == AliasPolicy(loads=True)
    assert found.of("ink", "champion") == AliasPolicy(approval=True)
    assert found.of("ink", "candidate") == AliasPolicy(loads=True)
    assert found.of("oil", "champion") == AliasPolicy()


def test_every_problem_of_a_policy_is_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(PolicyError) as error:
        read_policy(
            written(
                tmp_path,
                """
                defaults: {}
                default:
                  champion:
                    max_onnx_error: -1
                    metrics: [{at_most: 3}, {name: fid, at_least: 2, at_most: 1}]
                    drift: {at_most: 0.5, images: []}
                    min_age_s: soon
                """,
            )
        )
    for told in (
        "defaults: unknown field",
        "default.champion.max_onnx_error: Input should be greater than or equal to 0; received -1",
        "default.champion.metrics.0.name: is required",
        "at_least must not exceed at_most; received 2 and 1",
        "default.champion.drift.images",
        "default.champion.min_age_s",
    ):
        assert told in str(error.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("- champion", "must be a mapping"),
        ("", "must be a mapping"),
        ("default: [", "is not YAML"),
        ("default: {champion: {loads: true}, champion: {}}", "the key 'champion' occurs twice"),
        ("default: !!python/object/apply:os.system ['true']", "is not YAML"),
        ("default: {champion: {max_onnx_error: .nan}}", "max_onnx_error"),
    ],
)
def test_files_that_are_no_policy_are_refused(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(PolicyError, match=told):
        read_policy(written(tmp_path, text))


def test_a_refusal_is_recorded_with_every_verdict(start: Callable[..., Api], fake: FakeRegistry, adapters: str) -> None:
    api = start(fake, policy=policy(max_onnx_error=1e-9, tags={"reviewed": None}))
    answer = api.promote(adapters, 2, reason="try")
    assert answer.status_code == 409
    problem = RefusedProblem.model_validate(answer.json())
    assert "onnx_error: ONNX differs from torch by 1.4e-06; at most 1e-09 is allowed" in problem.detail
    assert "an admin may use force" in problem.detail
    [kept] = api.as_("rita").history(adapters)
    assert (kept["id"], kept["outcome"], kept["actor"], kept["reason"]) == (problem.decision, "refused", "pia", "try")
    assert [verdict["rule"] for verdict in kept["verdicts"]] == [
        "ready",
        "adapter",
        "same_files",
        "not_retired",
        "onnx_error",
        "tag:reviewed",
    ]
    assert next(v for v in kept["verdicts"] if v["rule"] == "onnx_error")["numbers"] == {
        "onnx_max_error": 1.4e-6,
        "at_most": 1e-9,
    }
    assert fake.model(adapters).aliases == {}
    assert api.get(f"/decisions/{problem.decision}").json() == kept


def test_dry_run_and_verdict_change_nothing(
    start: Callable[..., Api], fake: FakeRegistry, adapters: str, ledger: Ledger
) -> None:
    api = start(fake, policy=policy(max_onnx_error=1e-9, approval=True))
    dry = api.promote(adapters, 2, dry_run=True)
    told = api.as_("rita").get(f"/models/{adapters}/versions/2/verdict")
    for answer in (dry, told):
        decision = Decision.model_validate(answer.json())
        assert (answer.status_code, decision.id, decision.outcome) == (200, 0, "dry_run")
        assert [v.rule for v in decision.verdicts if not v.passed] == ["onnx_error"]
        assert decision.verdicts[-1].rule == "approval"
    assert list(ledger.chain.rows()) == []
    assert fake.model(adapters).aliases == {}
    api.as_("ada").promote(adapters, 2, force=True)
    assert api.roll_back(adapters, version=2, dry_run=True).json()["outcome"] == "dry_run"


def test_force_needs_an_admin_and_is_recorded(start: Callable[..., Api], fake: FakeRegistry, adapters: str) -> None:
    api = start(fake, policy=policy(max_onnx_error=1e-9))
    assert api.promote(adapters, 2, force=True).status_code == 403
    forced = api.as_("ada").promote(adapters, 2, force=True, reason="the exhibition opens").json()
    assert (forced["outcome"], forced["forced"]) == ("done", True)
    assert not all(verdict["passed"] for verdict in forced["verdicts"])
    api.as_("ada").promote(adapters, 3, force=True)
    assert [decision["forced"] for decision in api.history(adapters)] == [True, True]


def test_force_does_not_override_binding_rules(start: Callable[..., Api], fake: FakeRegistry, adapters: str) -> None:
    fake.add_version(adapters, tags={"atelier.kind": "bundle"})
    fake.make_pending(adapters, 2)
    api = start(fake).as_("ada")
    for number in (2, 6):
        answer = api.promote(adapters, number, force=True)
        assert answer.status_code == 409
        assert "force" not in answer.json()["detail"]


def test_better_than_the_champion_on_a_real_server(
    start: Callable[..., Api], world: FakeRegistry | RealWorld, name: str
) -> None:
    worse = FILES | {"evidence.json": EVIDENCE.model_copy(update={"validation_loss": 0.2}).model_dump_json()}
    world.add_model(name)
    world.add_version(name, tags={"atelier.kind": "adapter"}, files=FILES)
    world.add_version(name, tags={"atelier.kind": "adapter"}, files=worse)
    world.add_version(name, tags={"atelier.kind": "adapter"}, files=FILES, metrics={"fid": 12.5})
    api = start(
        world.registry, policy=policy(better_than_champion={"by_at_least": 0.01}, metrics=[{"name": "validation_loss"}])
    )
    assert api.promote(name, 2).status_code == 200
    assert api.promote(name, 1).status_code == 200
    refused = api.promote(name, 2)
    assert "better by -0.07" in refused.json()["detail"]
    assert api.promote(name, 3).status_code == 409  # as good is not better


def verdict(decision: Any, rule: str) -> dict[str, Any]:
    return next(each for each in decision["verdicts"] if each["rule"] == rule)


def test_drift_between_candidate_and_champion(
    start: Callable[..., Api], fake: FakeRegistry, adapters: str, infer_client: FakeInferClient
) -> None:
    infer_client.angles = {1: 0, 2: 4, 3: 90}
    api = start(fake, policy=policy(drift=DRIFT))
    first = api.promote(adapters, 1).json()
    assert verdict(first, "drift")["reason"] == "there is no other champion to compare images with"
    passed = api.promote(adapters, 2).json()
    assert 0 < verdict(passed, "drift")["numbers"]["image_1"] < DRIFT["at_most"]
    refused = api.promote(adapters, 3)
    assert refused.status_code == 409
    assert "image 1 has the distance" in refused.json()["detail"]
    assert "at most 0.3 is allowed" in refused.json()["detail"]
    infer_client.down = True
    assert "infer does not answer" in api.promote(adapters, 3).json()["detail"]
    assert api.as_("ada").promote(adapters, 3, force=True).status_code == 200


def test_an_image_may_override_the_drift_limit(
    start: Callable[..., Api], fake: FakeRegistry, adapters: str, infer_client: FakeInferClient
) -> None:
    infer_client.angles = {1: 0, 2: 90}
    strict, lenient = DRIFT["images"][0], DRIFT["images"][0] | {"prompt": "a dog", "at_most": 1.0}  # type: ignore[index]
    api = start(fake, policy=policy(drift={"at_most": 0.3, "images": [strict, lenient]}))
    api.promote(adapters, 1)
    detail = api.promote(adapters, 2).json()["detail"]
    assert "image 1 has the distance" in detail
    assert "image 2" not in detail


def test_a_version_with_blank_images_does_not_pass(
    start: Callable[..., Api], fake: FakeRegistry, adapters: str, infer_client: FakeInferClient
) -> None:
    """Not even as the first champion, nor beside one that draws nothing either."""
    api = start(fake, policy=policy(drift=DRIFT))
    assert "image 1 of the policy is blank" in api.promote(adapters, 1).json()["detail"]
    api.as_("ada").promote(adapters, 1, force=True)
    assert "not_blank" in api.promote(adapters, 2).json()["detail"]


def test_a_version_that_ignores_its_prompt_does_not_pass(
    start: Callable[..., Api], fake: FakeRegistry, adapters: str, infer_client: FakeInferClient
) -> None:
    images = [{"prompt": prompt, "seed": 7, "steps": 4, "size": 64} for prompt in ("a cat", "two dogs at the sea")]
    api = start(fake, policy=policy(drift={"at_most": 1, "prompts_apart_by": 0.2, "images": images}))
    infer_client.angles = {1: 0}
    assert api.promote(adapters, 1).status_code == 200
    infer_client.deaf, infer_client.angles = True, {2: 0}
    refused = api.promote(adapters, 2)
    assert "images of different prompts have the distance 0.000; required: at least 0.2" in refused.json()["detail"]


def test_prompt_sensitivity_needs_images_that_differ_only_in_the_prompt(tmp_path: Path) -> None:
    text = "default: {champion: {drift: {at_most: 0.5, prompts_apart_by: 0.1, images: [{prompt: a, seed: 1}, {prompt: b}]}}}"
    with pytest.raises(PolicyError, match="differ only in the prompt"):
        read_policy(written(tmp_path, text))


def test_a_champion_that_changed_is_compared_again(
    start: Callable[..., Api], fake: FakeRegistry, adapters: str, infer_client: FakeInferClient
) -> None:
    infer_client.angles = {1: 0, 2: 4, 3: 90}
    api = start(fake, policy=policy(drift=DRIFT))
    api.promote(adapters, 1)
    once = iter([lambda: fake.point(adapters, "champion", 3)])
    infer_client.before = lambda: next(once, lambda: None)()
    answer = api.promote(adapters, 2)  # while it is drawn somebody makes version 3 champion, and 2 is far from that
    assert answer.status_code == 409
    assert "version 3" in answer.json()["detail"]
    assert fake.model(adapters).aliases["champion"] == 3


def test_a_version_that_infer_cannot_load_does_not_pass(
    start: Callable[..., Api], fake: FakeRegistry, adapters: str, infer_client: FakeInferClient
) -> None:
    api = start(fake, policy=policy(loads=True))
    infer_client.broken = {2}
    assert "its weights hold NaN" in api.promote(adapters, 2).json()["detail"]
    assert api.promote(adapters, 1).status_code == 200
