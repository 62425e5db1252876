"""Spellings of a version's source, tags that only the registry gives, and versions from before either rule."""

from __future__ import annotations

import re

import pytest
from atelier_contracts import identifiers, names
from atelier_tracking.gate import protected_names
from atelier_tracking.gate.sources import PATTERN, SOURCE, odd_sources
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
ODD = [
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


def test_the_image_knows_the_same_spellings_as_the_contract():
    assert SOURCE == identifiers.SOURCE


@pytest.mark.parametrize("source", [*CANONICAL, "dummy-source", "prompt-template"])
def test_what_mlflows_clients_send_is_taken(source):
    assert re.search(PATTERN, source)


@pytest.mark.parametrize("source", ODD)
def test_any_other_spelling_is_refused(source):
    assert not re.search(PATTERN, source)


@given(st.text())
def test_mlflow_takes_what_the_contract_takes(source):
    try:
        identifiers.parse_source(source)
        taken = True
    except identifiers.IdentifierError:
        taken = source in ("dummy-source", "prompt-template")
    assert bool(re.search(PATTERN, source)) == taken


@pytest.mark.parametrize("source", [source for source in ODD if RUN in source])
@pytest.mark.parametrize("run", [None, RUN])
def test_an_odd_source_of_a_run_freezes_the_run(source, run):
    assert RUN in odd_sources([(source, None, run)], "artifacts")["ids"]


def test_ids_are_found_through_any_spelling():
    hidden = "%2561" + RUN[1:4] + "\t" + RUN[4:]
    assert odd_sources([(f"mlflow-artifacts:/5/{hidden}/artifacts/model", "", None)], "artifacts")["ids"] == [RUN]
    assert odd_sources([("models:/copied/3", f"mlflow-artifacts:/5/{RUN}/artifacts/model", None)], "artifacts")["ids"] == [RUN]


def test_folders_without_ids_are_frozen_as_folders():
    rows = [
        ("s3://artifacts/direct//model?x", None, None),
        ("S3://artifacts/upper", None, ""),
        ("s3://another/bucket", None, None),
        ("mlflow-artifacts:/shared/model", None, None),
        ("http://host/api/2.0/mlflow-artifacts/artifacts/by/name", None, None),
    ]
    assert odd_sources(rows, "artifacts") == {"ids": [], "folders": ["by/name", "direct/model", "shared/model", "upper"]}


def test_what_the_gates_searches_find_is_not_listed():
    rows = [(source, f"mlflow-artifacts:/5/{RUN}/artifacts/model", RUN) for source in [*CANONICAL, "dummy-source"]]
    assert odd_sources(rows, "artifacts") == {"ids": [], "folders": []}


@given(st.text(), st.none() | st.text(), st.none() | st.text())
def test_any_row_of_the_database_is_read(source, location, run):
    found = odd_sources([(source, location, run)], "artifacts")
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in found["ids"])
    assert all(each and not each.startswith("/") for each in found["folders"])


def test_a_trainers_tags_are_free_and_all_others_of_ours_are_not():
    ours = {value for name, value in vars(names).items() if name.startswith("TAG_")}
    assert set(protected_names.FREE) == {names.TAG_KIND, names.TAG_BUNDLE_DIGEST, names.TAG_SOURCE_DIGEST}
    for key in ours - set(protected_names.FREE):
        assert key in (protected_names.refusal("sketch", ["mlflow.x", key], False) or "")
    assert protected_names.refusal("sketch", [*protected_names.FREE, "mlflow.x", "atelier"], False) is None


def test_the_chains_model_is_created_by_the_registry():
    assert names.CHAIN_MODEL in protected_names.MODELS
    assert "created by the registry service" in (protected_names.refusal(names.CHAIN_MODEL, [], True) or "")
    assert protected_names.refusal(names.CHAIN_MODEL, [], False) is None
