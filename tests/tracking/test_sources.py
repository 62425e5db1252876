"""Canonical sources of versions, reserved tags, and older versions with other sources."""

from __future__ import annotations

import re

import pytest
from atelier_contracts import identifiers, names
from atelier_tracking.gate import protected_names
from atelier_tracking.gate.sources import PATTERN, SOURCE, noncanonical_sources
from hypothesis import given
from hypothesis import strategies as st

RUN, MODEL = "a1" * 16, "m-" + "b2" * 16
CANONICAL = [
    f"models:/{MODEL}",
    f"runs:/{RUN}/model",
    f"runs:/{RUN}/a/b.c",
    f"mlflow-artifacts:/5/{RUN}/artifacts/model",
    f"mlflow-artifacts:/5/models/{MODEL}/artifacts",
]
NONCANONICAL = [
    f"runs:/{RUN}/model/",
    f"runs:/{RUN}",
    f"runs://{RUN}/model",
    f"RUNS:/{RUN}/model",
    f"runs:/{RUN}/mod%65l",
    f"runs:/{RUN}/model\n",
    f"runs:/{RUN}/\tmodel",
    f"runs:/{RUN}/x/../model",
    f"runs:/{RUN}/model?x",
    f"MLFLOW-ARTIFACTS:/5/{RUN}/artifacts/model",
    f"mlflow-artifacts://host/5/{RUN}/artifacts/model",
    f"mlflow-artifacts:/5/{RUN}/artifacts/model;",
    f"mlflow-artifacts:/5/{RUN}//artifacts/model",
    f"http://127.0.0.1/api/2.0/mlflow-artifacts/artifacts/5/{RUN}/artifacts/model",
    f"s3://artifacts/5/{RUN}/artifacts/model",
    f"file:///5/{RUN}/artifacts/model",
    f" runs:/{RUN}/model",
    f"models:/{MODEL}/",
    "models:/sketch/1",
    "models:/sketch@champion",
    "",
]


def test_the_pattern_equals_that_of_the_contract() -> None:
    assert SOURCE == identifiers.SOURCE


@pytest.mark.parametrize("source", [*CANONICAL, "dummy-source", "prompt-template"])
def test_canonical_sources_are_accepted(source: str) -> None:
    assert re.search(PATTERN, source)


@pytest.mark.parametrize("source", NONCANONICAL)
def test_other_sources_are_refused(source: str) -> None:
    assert not re.search(PATTERN, source)


@given(st.text())
def test_mlflow_accepts_what_the_contract_accepts(source: str) -> None:
    try:
        identifiers.parse_source(source)
        accepted = True
    except identifiers.IdentifierError:
        accepted = source in ("dummy-source", "prompt-template")
    assert bool(re.search(PATTERN, source)) == accepted


@pytest.mark.parametrize("source", [source for source in NONCANONICAL if RUN in source])
@pytest.mark.parametrize("run", [None, RUN])
def test_a_noncanonical_source_protects_its_run(source: str, run: str | None) -> None:
    assert RUN in noncanonical_sources([(source, None, run)], "artifacts")["ids"]


def test_ids_are_found_in_encoded_sources() -> None:
    hidden = "%2561" + RUN[1:4] + "\t" + RUN[4:]
    assert noncanonical_sources([(f"mlflow-artifacts:/5/{hidden}/artifacts/model", "", None)], "artifacts")["ids"] == [RUN]
    assert noncanonical_sources([("models:/copied/3", f"mlflow-artifacts:/5/{RUN}/artifacts/model", None)], "artifacts")[
        "ids"
    ] == [RUN]


@pytest.mark.parametrize("encoded", ["%09", "%0a", "%7f", "%2509", "%00"])
def test_ids_are_found_around_encoded_control_characters(encoded: str) -> None:
    source = f"mlflow-artifacts:/5/{RUN[:7]}{encoded}{RUN[7:]}/artifacts/model"
    assert noncanonical_sources([(source, None, None)], "artifacts")["ids"] == [RUN]


def test_folders_without_ids_are_protected() -> None:
    rows = [
        ("s3://artifacts/direct//model?x", None, None),
        ("S3://artifacts/upper", None, ""),
        ("s3://another/bucket", None, None),
        ("mlflow-artifacts:/shared/model", None, None),
        ("http://host/api/2.0/mlflow-artifacts/artifacts/by/name", None, None),
    ]
    assert noncanonical_sources(rows, "artifacts") == {
        "ids": [],
        "folders": ["by/name", "direct/model", "shared/model", "upper"],
    }


def test_canonical_sources_are_not_listed() -> None:
    rows = [(source, f"mlflow-artifacts:/5/{RUN}/artifacts/model", RUN) for source in [*CANONICAL, "dummy-source"]]
    assert noncanonical_sources(rows, "artifacts") == {"ids": [], "folders": []}


@given(st.text(), st.none() | st.text(), st.none() | st.text())
def test_any_row_is_parsed(source: str, location: str | None, run: str | None) -> None:
    sources = noncanonical_sources([(source, location, run)], "artifacts")
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in sources["ids"])
    assert all(each and not each.startswith("/") for each in sources["folders"])


def test_only_the_trainers_tags_are_unreserved() -> None:
    tags = {value for name, value in vars(names).items() if name.startswith("TAG_")}
    assert set(protected_names.UNRESERVED_TAGS) == {names.TAG_KIND, names.TAG_BUNDLE_DIGEST, names.TAG_SOURCE_DIGEST}
    for key in tags - set(protected_names.UNRESERVED_TAGS):
        assert key in (protected_names.violation("sketch", ["mlflow.x", key], False) or "")
    assert protected_names.violation("sketch", [*protected_names.UNRESERVED_TAGS, "mlflow.x", "atelier"], False) is None


def test_only_the_registry_creates_the_model_of_the_chain() -> None:
    assert names.CHAIN_MODEL in protected_names.RESERVED_MODELS
    assert "Only the registry service may create" in (protected_names.violation(names.CHAIN_MODEL, [], True) or "")
    assert protected_names.violation(names.CHAIN_MODEL, [], False) is None
