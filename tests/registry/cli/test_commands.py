"""The command line against the running service: what it prints, and the status it ends with."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from atelier_contracts.names import ADAPTER_FILE
from atelier_contracts.tokens import Role, TokenFile
from atelier_registry.bootstrap import Intervals, build_app
from atelier_registry.cli import main
from atelier_registry.cli.token_file import TokenEditError, issue, list_tokens, revoke
from atelier_registry.config.policy import Policy
from atelier_registry.config.subscribers import Subscriber
from atelier_registry.events.event_stream import EventStream
from atelier_registry.events.webhooks.dispatcher import WebhookDispatcher
from atelier_registry.events.webhooks.offsets import WebhookOffsets
from atelier_registry.storage.ledger import Ledger
from atelier_registry.storage.locks import AliasLocks
from sqlalchemy import Engine

from ...servers import app_running
from ..adapter_files import FILES
from ..conftest import Api
from ..events.test_webhook_dispatcher import until
from ..fake_infer_client import FakeInferClient
from ..fake_registry import FakeRegistry

POLICY = Policy.model_validate({"default": {"champion": {"output_finite": True}, "shown": {"approval": True}}})

REFUSED = "does not answer: Failed to establish a new connection: [Errno 111] Connection refused"


@pytest.fixture
def cli(
    fake: FakeRegistry,
    ledger: Ledger,
    locks: AliasLocks,
    webhooks: WebhookDispatcher,
    token_file: Path,
    infer_client: FakeInferClient,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """Runs a command as somebody; gives its status, what it printed, and what it complained."""
    event_stream = EventStream(ledger.outbox)
    app = build_app(
        registry=fake,
        ledger=ledger,
        locks=locks,
        event_stream=event_stream,
        webhooks=webhooks,
        tokens=TokenFile(token_file),
        policy=POLICY,
        infer_client=infer_client,
        intervals=Intervals(alias_poll_s=3600, cache_ttl_s=60, integrity_check_s=3600),
    )
    with app_running(app) as address:
        monkeypatch.setenv("ATELIER_URL", address)

        def run(*arguments: Any, who: str = "pia") -> tuple[int, str, str]:
            monkeypatch.setenv("ATELIER_TOKEN", f"{who}-secret")
            status = main.run([str(argument) for argument in arguments])
            printed = capsys.readouterr()
            return status, printed.out, printed.err

        yield run
        event_stream.close()


def test_commands_print_what_they_did(cli: Callable[..., tuple[int, str, str]], fake: FakeRegistry, adapters: str) -> None:
    assert cli("promote", adapters, 1, "--reason", "first")[0] == 0
    status, out, _ = cli("promote", adapters, 2, "--reason", "softer lines", "--json")
    assert (status, json.loads(out)["to_version"]) == (0, 2)
    status, out, _ = cli("models")
    assert out.splitlines()[1].split() == [adapters, "5", "champion=2", "pencil", "drawings"]
    status, out, _ = cli("versions", adapters, "--limit", 2)
    assert [line.split()[0] for line in out.splitlines()] == ["VERSION", "5", "4"]
    assert "evidence.onnx_max_error" in cli("versions", adapters, 2)[1]
    assert "VERSION 1" in cli("compare", adapters, 1, 2)[1]
    status, out, _ = cli("rollback", adapters, "--reason", "hands")
    assert (status, fake.model(adapters).aliases["champion"]) == (0, 1)
    assert "champion 2 → version 1" in out
    status, out, _ = cli("history", adapters, who="rita")
    assert [line.split()[0] for line in out.splitlines()] == ["ID", "5", "3", "1"]
    assert "softer lines" in out
    decided = json.loads(cli("history", adapters, "--json")[1])
    assert cli("history", adapters, "--at", decided[1]["done_at"])[1].startswith(f"{adapters} champion: version 2 since")
    assert cli("retire", adapters, 5, "--reason", "blurred")[0] == 0
    assert "RETIRED" in cli("versions", adapters)[1]


def test_a_style_is_shown_and_edited(cli: Callable[..., tuple[int, str, str]], adapters: str) -> None:
    assert cli("promote", adapters, 1, "--reason", "first")[0] == 0
    edit = ["--title", "Ink", "--trigger-words", "sumi, wash", "--recommended-steps", "12", "--recommended-guidance", "3"]
    status, out, _ = cli("style", "set", adapters, *edit, "--reason", "clearer")
    assert status == 0
    assert "title: – → Ink" in out and "trigger_words: – → sumi wash" in out and "recommended.guidance_scale: – → 3" in out
    rows = [line.split() for line in cli("style", "show", adapters, who="rita")[1].splitlines()]
    assert ["title", "Ink", "edit"] in rows and ["recommended.steps", "12", "edit"] in rows
    status, out, _ = cli("style", "set", adapters, "--unset", "recommended.steps", "--reason", "as trained", "--json")
    assert (status, json.loads(out)["style"]["after"]["recommended"]["steps"]) == (0, None)
    assert json.loads(cli("style", "show", adapters, "--json")[1])["style"]["recommended"]["guidance_scale"] == 3.0
    assert cli("style", "set", adapters, "--title", "Brush", "--reason", "r", who="rita")[0] == 5
    assert cli("style", "set", adapters, "--title", "Brush", "--reason", "r", "--if-match", '"9-9"')[0] == 3
    assert "style" in cli("history", adapters)[1]


def test_exit_statuses_tell_why_a_command_failed(
    cli: Callable[..., tuple[int, str, str]], fake: FakeRegistry, adapters: str, infer_client: FakeInferClient
) -> None:
    fake.add_version(adapters, tags={"atelier.kind": "adapter"}, files={ADAPTER_FILE: FILES[ADAPTER_FILE]})
    status, out, err = cli("promote", adapters, 6, "--reason", "r")
    assert (status, out) == (3, "")
    assert "it has no evidence.json" in err
    status, out, err = cli("promote", adapters, 6, "--reason", "r", "--dry-run")
    assert status == 3
    assert "FAIL  output_finite: it has no evidence.json" in out
    assert cli("promote", adapters, 1, "--reason", "r", "--dry-run")[0] == 0
    assert json.loads(cli("promote", adapters, 6, "--reason", "r", "--json")[1])["status"] == 409
    assert cli("promote", adapters, 6, "--reason", "r", "--force")[0] == 5
    assert cli("promote", adapters, 6, "--reason", "r", "--force", who="ada")[0] == 0
    assert cli("promote", adapters, 1, "--reason", "r", "--if-match", '"9-9"')[0] == 3
    assert cli("promote", adapters, 99, "--reason", "r")[0] == 4
    assert cli("promote", adapters, 1, "--reason", "r", who="rita")[0] == 5
    assert cli("models", who="nobody")[0] == 5
    assert cli("promote", adapters, 1, "--reason", " ")[0] == 2
    fake.down = True
    assert cli("models")[0] == 6
    assert cli("models", "--url", "http://127.0.0.1:1")[0] == 6
    assert cli("models", "--url", "ftp://x")[0] == 2
    with pytest.raises(SystemExit) as usage:
        cli("promote", adapters)
    assert usage.value.code == 2


def test_a_proposal_exits_with_its_own_status(
    cli: Callable[..., tuple[int, str, str]], fake: FakeRegistry, adapters: str
) -> None:
    status, out, _ = cli("promote", adapters, 1, "--alias", "shown", "--reason", "r")
    assert status == 7
    assert "approve 1 --reason" in out
    assert cli("approve", 1, "--reason", "r")[0] == 5
    assert cli("approve", 1, "--reason", "seen", who="ada")[0] == 0
    assert fake.model(adapters).aliases == {"shown": 1}
    assert cli("promote", adapters, 2, "--alias", "shown", "--reason", "r", "--json")[0] == 7
    assert cli("reject", 3, "--reason", "no")[0] == 4
    assert cli("history", adapters, "--outcome", "proposed", "--json")[0] == 0


def test_a_repeated_key_returns_the_same_decision(cli: Callable[..., tuple[int, str, str]], adapters: str) -> None:
    first = cli("promote", adapters, 1, "--reason", "r", "--key", "k", "--json")
    assert cli("promote", adapters, 1, "--reason", "r", "--key", "k", "--json") == first
    assert cli("promote", adapters, 2, "--reason", "r", "--key", "k")[0] == 2


def test_control_characters_do_not_reach_the_terminal(cli: Callable[..., tuple[int, str, str]], adapters: str) -> None:
    cli("promote", adapters, 1, "--reason", "red\x1b[31m and\nline")
    assert "\x1b" not in cli("history", adapters)[1]


def test_verify_finds_changes(
    cli: Callable[..., tuple[int, str, str]],
    engine: Engine,
    adapters: str,
    database_url: str,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for number in (1, 2):
        cli("promote", adapters, number, "--reason", "r")
    status, out, _ = cli("verify", "--database", database_url, "--json")
    assert (status, json.loads(out)["entries"]) == (0, 4)
    head = json.loads(out)["head"]
    cli("promote", adapters, 3, "--reason", "r")
    assert cli("verify", "--database", database_url, "--head", head)[0] == 0
    assert cli("verify", "--database", database_url, "--head", "f" * 64)[0] == 8
    if engine.dialect.name == "sqlite":
        with engine.begin() as connection:
            connection.exec_driver_sql("DROP TRIGGER entries_no_update")
            connection.exec_driver_sql("UPDATE entries SET actor = 'eve' WHERE id = 3")
        status, _, err = cli("verify", "--database", database_url)
        assert status == 8
        assert "entry 3 was changed" in err
    assert cli("verify", "--database", "sqlite:////nowhere/x.db")[0] == 6


def test_tokens_are_issued_listed_and_revoked(cli: Callable[..., tuple[int, str, str]], token_file: Path) -> None:
    status, out, err = cli("token", "issue", "nora", "promoter", "--file", token_file)
    assert status == 0
    assert "only time" in err
    assert out.strip() not in token_file.read_text()
    assert ["nora", "promoter"] in [line.split() for line in cli("token", "list", "--file", token_file)[1].splitlines()]
    assert cli("token", "issue", "nora", "admin", "--file", token_file)[0] == 2
    assert cli("token", "revoke", "nora", "--file", token_file)[0] == 0
    assert cli("token", "revoke", "nora", "--file", token_file)[0] == 2


def test_a_running_service_notices_token_changes(start: Callable[..., Api], fake: FakeRegistry, token_file: Path) -> None:
    api = start(fake)
    secret = issue(token_file, "nora", Role.reader)

    def asked() -> int:
        return api.client.get("/models", headers={"Authorization": f"Bearer {secret}"}).status_code

    assert asked() == 200
    revoke(token_file, "nora")
    assert asked() == 401


def test_edits_keep_comments_and_permissions(tmp_path: Path, token_file: Path) -> None:
    token_file.write_text("# who may come in\n" + token_file.read_text())
    token_file.chmod(0o640)
    issue(token_file, "nora", Role.trainer)
    assert token_file.read_text().startswith("# who may come in\n")
    assert token_file.stat().st_mode & 0o777 == 0o640
    fresh = tmp_path / "fresh"
    issue(fresh, "nora", Role.admin)
    assert fresh.stat().st_mode & 0o777 == 0o600
    for id in ("", "two words", "a#b", "x" * 101):
        with pytest.raises(TokenEditError):
            issue(fresh, id, Role.reader)
    fresh.write_text("broken\n")
    with pytest.raises(TokenEditError, match="line 1"):
        issue(fresh, "mia", Role.reader)
    assert fresh.read_text() == "broken\n"


def test_concurrent_edits_lose_nothing(token_file: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: issue(token_file, f"n{number}", Role.reader), range(24)))
    assert len([token for token in list_tokens(token_file) if token.id.startswith("n")]) == 24


@pytest.fixture
def webhooks(ledger: Ledger, engine: Engine, locks: AliasLocks, tmp_path: Path) -> WebhookDispatcher:
    """One subscriber, who does not answer."""
    (tmp_path / "secret").write_text("whsec_" + base64.b64encode(bytes(32)).decode())
    subscriber = Subscriber(name="ci", url="http://127.0.0.1:1/hooks", secret_file=tmp_path / "secret")
    return WebhookDispatcher([subscriber], ledger.outbox, WebhookOffsets(engine), locks)


def test_subscribers_are_listed_and_pinged(cli: Callable[..., tuple[int, str, str]], adapters: str) -> None:
    status, out, _ = cli("subscribers", who="ada")
    assert (status, [line.split()[:3] for line in out.splitlines()]) == (
        0,
        [["NAME", "URL", "LAST"], ["ci", "http://127.0.0.1:1/hooks", "0"]],
    )
    assert cli("subscribers", "--ping", "ci", who="ada")[:2] == (
        6,
        f"not delivered: it {REFUSED}\n",
    )
    assert cli("subscribers", "--ping", "cd", who="ada")[0] == 4
    assert cli("subscribers", who="pia")[0] == 5
    cli("promote", adapters, 1, "--reason", "first")
    until(lambda: json.loads(cli("subscribers", "--json", who="ada")[1])[0]["failed_attempts"])
    [ci] = json.loads(cli("subscribers", "--json", who="ada")[1])
    assert (ci["pending_events"], ci["problem"]) == (
        1,
        "does not answer: Failed to establish a new connection: [Errno 111] Connection refused",
    )
