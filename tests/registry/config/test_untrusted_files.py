"""Whatever is in a policy, a file of subscribers, a manifest or the anchor's tag: it is read, or refused with every problem."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import yaml
from atelier_contracts.manifests import AdapterManifest, Evidence
from atelier_registry.config.policy import BUILT_IN, AliasPolicy, read_policy
from atelier_registry.config.subscribers import read_subscribers
from atelier_registry.decisions.anchor_stores import parse_anchor
from atelier_registry.errors import PolicyError, SubscribersError
from atelier_registry.models.catalogue import parse_file
from atelier_registry.storage.hash_chain import BrokenChainError
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ..adapter_files import ADAPTER, EVIDENCE

SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
ODD = st.sampled_from([2**63, 10**400, -1, float("nan"), float("inf"), "..", "/etc/passwd", "champion", "*", "\x00", True])
VALUES = st.recursive(
    st.none() | st.integers() | st.floats() | st.text(max_size=20) | st.dates() | ODD,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=3),
    max_leaves=6,
)
PIECES = [
    *(
        "default:",
        "champion:",
        "\n  ",
        "\n",
        "&a ",
        "*a",
        "- ",
        "{",
        "[",
        "? ",
        "<<: *a",
        "|",
        "%YAML 9.9",
        "---",
        "\t",
        "2026-13-45",
    ),
    *("0x", "1e999", "!!binary x", "!!timestamp x", "!!int ", "!!bool x", "!!float ", "loads: yes"),
    "!!python/object/apply:os.system [id]",
]
TEXTS = st.text(max_size=60) | st.lists(st.sampled_from(PIECES), max_size=9).map("".join)
DEEP = ("[" * 1_500, "{a: " * 1_500, "- " * 1_500)


def read_either(path: Path) -> None:
    """The file as both, each with errors of its own."""
    try:
        read_policy(path)
    except PolicyError as error:
        assert "policy" in str(error)
    try:
        read_subscribers(path)
    except SubscribersError as error:
        assert "subscribers" in str(error)


@SHARED
@given(st.binary(max_size=60) | TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass")))
@example(DEEP[0].encode())
@example(DEEP[1].encode())
@example(DEEP[2].encode())
@example(b"a: " + b"9" * 10_000)
@example(b"? {a: 1}\n: 2")
@example(b"a: !!timestamp x")
@example(b"a: !!int")
@example(b"a: !!bool x")
@example(b"a: 2026-13-45")
@example(b"&a [*a]")
@example(b"default: &a {champion: *a}")
def test_any_file_is_read_or_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file.yaml").write_bytes(content)
    read_either(tmp_path / "file.yaml")


RULES = st.dictionaries(st.sampled_from([*AliasPolicy.model_fields, "moon"]), VALUES, max_size=3)


@SHARED
@given(st.dictionaries(st.sampled_from(["default", "models", "moon"]), st.dictionaries(st.just("champion"), RULES) | VALUES))
def test_any_rules_are_read_or_refused(tmp_path: Path, content: dict[str, Any]) -> None:
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(content))
    read_either(tmp_path / "policy.yaml")


SUBSCRIBER = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["ci", "../x", ""]) | VALUES,
        "url": st.sampled_from(["http://[", "https://a:b", "http://ci", "http://a@b", "file:///x", "http://a:99999"]) | VALUES,
        "secret_file": st.sampled_from(["/dev/null", "/etc/passwd", "/", "", "\x00", "a" * 5000]) | VALUES,
        "models": VALUES,
        "timeout_s": VALUES,
    },
)  # fmt: skip


@SHARED
@given(st.lists(SUBSCRIBER, max_size=3))
def test_any_subscribers_are_read_or_refused(tmp_path: Path, entries: list[Any]) -> None:
    (tmp_path / "subscribers.yaml").write_text(yaml.safe_dump({"subscribers": entries}))
    read_either(tmp_path / "subscribers.yaml")


def test_valid_files_are_read(tmp_path: Path) -> None:
    """So that the tests above do not pass by refusing everything."""
    assert read_policy(BUILT_IN).of("any", "champion").loads
    (tmp_path / "subscribers.yaml").write_text("subscribers: []")
    assert read_subscribers(tmp_path / "subscribers.yaml") == []


@given(st.none() | st.text() | st.from_regex(r"\A[0-9]{1,22}:[0-9a-f]{63,65}\n?\Z"))
def test_any_anchor_is_parsed_or_refused(text: str | None) -> None:
    try:
        found = parse_anchor(text)
    except BrokenChainError as error:
        assert repr(text[:100]) in str(error)
    else:
        assert found is None or (0 < found[0] < 10**19 and re.fullmatch("[0-9a-f]{64}", found[1]))


MANIFEST = st.dictionaries(st.sampled_from([*AdapterManifest.model_fields, *Evidence.model_fields]), VALUES, max_size=3)


@SHARED
@given(st.text(max_size=60) | MANIFEST.map(lambda changes: json.dumps(changes, default=str)), st.booleans())
@example("[" * 900, False)
def test_any_manifest_is_parsed_or_refused(text: str, adapter: bool) -> None:
    problems: list[str] = []
    kind, whole = (AdapterManifest, ADAPTER) if adapter else (Evidence, EVIDENCE)
    with contextlib.suppress(ValueError, TypeError):
        text = json.dumps(json.loads(whole.model_dump_json()) | json.loads(text))
    found = parse_file(kind, "a file", {"a file": text}, problems)
    assert (found is None) == bool(problems)
