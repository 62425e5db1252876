"""Backups of the twin without containers: verification before a restore, parsing a dump, restoring and rotating secrets."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from atelier_contracts.tokens import parse_tokens
from atelier_twin import volume_layout
from atelier_twin.backups import database, manifest
from atelier_twin.backups.manifest import Manifest
from atelier_twin.errors import BackupError
from atelier_twin.secrets import generate, read_or_generate, with_logins_of, write


@pytest.fixture
def backup(tmp_path: Path) -> tuple[Path, Manifest]:
    """A folder with a complete backup of one object."""
    (tmp_path / "objects").mkdir()
    for file, text in {"database.sql": "SELECT 1;\n", "secrets.json": "{}", "tokens": "", "objects/0": "bytes"}.items():
        (tmp_path / file).write_text(text)
    files = [manifest.describe(tmp_path, name) for name in ("database.sql", "secrets.json", "tokens")]
    files.append(manifest.describe(tmp_path, "objects/0", key="1/a/model", content_type="text/plain", metadata={"a": "b"}))
    contents = manifest.Manifest("20261124T214500Z", "dev", "3.17.2", "17.6", {"public": "abc"}, tuple(files))
    manifest.write(tmp_path, contents)
    return tmp_path, contents


def test_an_intact_backup_is_read_as_written(backup: tuple[Path, Manifest]) -> None:
    folder, contents = backup
    assert manifest.read(folder) == contents
    assert [file.key for file in contents.objects] == ["1/a/model"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "objects/0").write_text("Bytes"), "objects/0: has changed since the backup"),
        (lambda folder: (folder / "objects/0").write_text("byte"), "objects/0: must have 5 bytes; it has 4"),
        (lambda folder: (folder / "database.sql").unlink(), "database.sql: is missing"),
        (lambda folder: (folder / "manifest.json").unlink(), "must be a backup with a manifest.json"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "must be a backup with a manifest.json"),
        (lambda folder: (folder / "manifest.json").write_text('{"format": 2}'), "must be a backup of format 1; received 2"),
    ],
)
def test_a_damaged_backup_is_refused(backup: tuple[Path, Manifest], damage: Callable[..., Any], message: str) -> None:
    folder, _ = backup
    damage(folder)
    with pytest.raises(BackupError, match=message):
        manifest.read(folder)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "objects/../tokens", "objects/x"])
def test_a_manifest_with_a_foreign_path_is_refused(backup: tuple[Path, Manifest], name: str) -> None:
    folder, contents = backup
    foreign = dataclasses.replace(contents.pieces[-1], file=name)
    manifest.write(folder, dataclasses.replace(contents, pieces=(*contents.pieces[:-1], foreign)))
    with pytest.raises(BackupError, match="is not a file of a backup"):
        manifest.read(folder)


def test_a_symbolic_link_is_refused(backup: tuple[Path, Manifest]) -> None:
    folder, _ = backup
    (folder / "objects/0").rename(folder / "elsewhere")
    (folder / "objects/0").symlink_to(folder / "elsewhere")
    with pytest.raises(BackupError, match="objects/0: is missing"):
        manifest.read(folder)


def test_a_backup_without_a_dump_is_refused(backup: tuple[Path, Manifest]) -> None:
    folder, contents = backup
    manifest.write(folder, dataclasses.replace(contents, pieces=contents.pieces[1:]))
    with pytest.raises(BackupError, match=r"database\.sql: is not listed"):
        manifest.read(folder)


DUMP = """--
-- PostgreSQL database dump
--
\\restrict abc

SET client_encoding = 'UTF8';
CREATE TABLE public.runs (id integer);

COPY public.runs (id, name) FROM stdin;
1\tCOPY x FROM stdin;
2\t\\\\.
\\.


ALTER TABLE ONLY public.runs ADD CONSTRAINT runs_pkey PRIMARY KEY (id);
COPY public.tags (key) FROM stdin;
\\.
\\unrestrict abc
"""


def test_a_dump_is_parsed_in_order_and_rows_are_not_commands() -> None:
    parts = []
    for statements, rows in database.parse_dump(io.StringIO(DUMP)):
        parts.append((statements, None if rows is None else list(iter(lambda rows=rows: rows.read(8192), ""))))  # type: ignore[misc]
    assert [statements.split()[0] for statements, _ in parts] == ["SET", "COPY", "ALTER", "COPY"]
    assert parts[1][1] == ["1\tCOPY x FROM stdin;\n", "2\t\\\\.\n"] and parts[3][1] == []
    assert "restrict" not in "".join(statements for statements, _ in parts)


def test_restore_replaces_logins_and_tokens_and_keeps_database_passwords(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "chown", lambda *_: None)
    old, new = generate({}), generate({})
    write(tmp_path / "secrets.json", new)
    for file in volume_layout.secret_files(new):
        (tmp_path / file.path).parent.mkdir(exist_ok=True)
        (tmp_path / file.path).write_text(file.text)
    home = tmp_path / "home"
    (home / ".mlflow").mkdir(parents=True)
    (home / ".mlflow/credentials").write_text("the new twin's")
    stored = json.loads(json.dumps({"logins": old.logins, "tokens": old.tokens}))
    tokens = "ana promoter " + "0" * 64 + "\n"
    volume_layout.replace(with_logins_of(new, stored), tokens, tmp_path, home)
    current, generated = read_or_generate(tmp_path / "secrets.json", {})
    assert (generated, current.logins, current.tokens) == (False, old.logins, old.tokens)
    assert (current.database, current.s3_secret_access_key) == (new.database, new.s3_secret_access_key)
    assert [token.id for token in parse_tokens((tmp_path / "tokens/tokens").read_text())] == ["ana"]
    assert (tmp_path / "infer/tracking_password").read_text() == old.logins["infer"]
    assert (tmp_path / "tracking/db_password").read_text() == new.database["tracking"]
    assert not (home / ".mlflow/credentials").exists()


def test_rotation_replaces_all_logins_and_keeps_tokens_of_people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "chown", lambda *_: None)
    old = generate({})
    write(tmp_path / "secrets.json", old)
    for file in volume_layout.secret_files(old):
        (tmp_path / file.path).parent.mkdir(exist_ok=True)
        (tmp_path / file.path).write_text(file.text)
    with (tmp_path / "tokens/tokens").open("a") as token_file:
        token_file.write("ana promoter " + "0" * 64 + "\n")
    for name in ("home/models", "home/.mlflow", "jobs", "base"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "roles").write_text("")
    (tmp_path / "home/.mlflow/credentials").write_text(old.logins["trainer"])
    paths = volume_layout.VolumePaths(
        secrets=tmp_path,
        trainer_home=tmp_path / "home",
        postgres_init=tmp_path,
        jobs=tmp_path / "jobs",
        roles=tmp_path / "roles",
        base=tmp_path / "base",
    )
    volume_layout.rotate(old, paths)
    new, _ = read_or_generate(tmp_path / "secrets.json", {})
    assert not {*new.logins.values(), *new.tokens.values()} & {*old.logins.values(), *old.tokens.values()}
    assert (new.database, new.s3_access_key_id) == (old.database, old.s3_access_key_id)
    by_id = {token.id: token.sha256 for token in parse_tokens((tmp_path / "tokens/tokens").read_text())}
    assert by_id.keys() == {*new.tokens, "ana"} and by_id["ana"] == "0" * 64
    assert by_id["reader"] == hashlib.sha256(new.tokens["reader"].encode()).hexdigest()
    assert new.logins["trainer"] in (tmp_path / "home/.mlflow/credentials").read_text()
    assert (tmp_path / "infer/tracking_password").read_text() == new.logins["infer"]
