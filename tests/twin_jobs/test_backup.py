"""Backups of the twin, without containers: what is checked before anything is restored, and how a dump is read."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os

import pytest
from atelier_contracts.tokens import parse_tokens
from atelier_twin import volume_layout
from atelier_twin.backups import database, manifest
from atelier_twin.errors import BackupError
from atelier_twin.secrets import make, read_or_make, restored, write


@pytest.fixture
def backup(tmp_path):
    """A folder with a complete backup of one object."""
    (tmp_path / "objects").mkdir()
    for file, text in {"database.sql": "SELECT 1;\n", "secrets.json": "{}", "tokens": "", "objects/0": "bytes"}.items():
        (tmp_path / file).write_text(text)
    pieces = [manifest.piece_of(tmp_path, name) for name in ("database.sql", "secrets.json", "tokens")]
    pieces.append(manifest.piece_of(tmp_path, "objects/0", key="1/a/model", content_type="text/plain", metadata={"a": "b"}))
    told = manifest.Manifest("20261124T214500Z", "dev", "3.17.2", "17.6", {"public": "abc"}, tuple(pieces))
    manifest.write(tmp_path, told)
    return tmp_path, told


def test_a_sound_backup_is_read_as_it_was_written(backup):
    folder, told = backup
    assert manifest.read(folder) == told
    assert [piece.key for piece in told.objects] == ["1/a/model"]


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda folder: (folder / "objects/0").write_text("Bytes"), "objects/0: has other bytes than when it was made"),
        (lambda folder: (folder / "objects/0").write_text("byte"), "objects/0: must have 5 bytes; it has 4"),
        (lambda folder: (folder / "database.sql").unlink(), "database.sql: is missing"),
        (lambda folder: (folder / "manifest.json").unlink(), "must be a backup with a manifest.json"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "must be a backup with a manifest.json"),
        (lambda folder: (folder / "manifest.json").write_text('{"format": 2}'), "must be a backup of format 1; received 2"),
    ],
)
def test_a_damaged_backup_is_refused(backup, harm, words):
    folder, _ = backup
    harm(folder)
    with pytest.raises(BackupError, match=words):
        manifest.read(folder)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "objects/../tokens", "objects/x"])
def test_a_manifest_that_names_other_files_is_refused(backup, name):
    folder, told = backup
    strange = dataclasses.replace(told.pieces[-1], file=name)
    manifest.write(folder, dataclasses.replace(told, pieces=(*told.pieces[:-1], strange)))
    with pytest.raises(BackupError, match="is no file of a backup"):
        manifest.read(folder)


def test_a_link_is_no_file_of_a_backup(backup):
    folder, _ = backup
    (folder / "objects/0").rename(folder / "elsewhere")
    (folder / "objects/0").symlink_to(folder / "elsewhere")
    with pytest.raises(BackupError, match="objects/0: is missing"):
        manifest.read(folder)


def test_a_backup_without_the_database_is_none(backup):
    folder, told = backup
    manifest.write(folder, dataclasses.replace(told, pieces=told.pieces[1:]))
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


def test_a_dump_is_read_in_its_order_and_no_row_is_taken_for_a_command():
    seen = []
    for statements, rows in database._parts(io.StringIO(DUMP)):
        seen.append((statements, None if rows is None else list(iter(lambda rows=rows: rows.read(8192), ""))))
    assert [statements.split()[0] for statements, _ in seen] == ["SET", "COPY", "ALTER", "COPY"]
    assert seen[1][1] == ["1\tCOPY x FROM stdin;\n", "2\t\\\\.\n"] and seen[3][1] == []
    assert "restrict" not in "".join(statements for statements, _ in seen)


def test_people_keep_their_logins_and_tokens_and_the_database_its_passwords(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "chown", lambda *_: None)
    old, new = make({}), make({})
    write(tmp_path / "secrets.json", new)
    for entry in volume_layout.entries(new):
        (tmp_path / entry.path).parent.mkdir(exist_ok=True)
        (tmp_path / entry.path).write_text(entry.text)
    home = tmp_path / "home"
    (home / ".mlflow").mkdir(parents=True)
    (home / ".mlflow/credentials").write_text("the new twin's")
    kept = json.loads(json.dumps({"logins": old.logins, "tokens": old.tokens}))
    tokens = "ana promoter " + "0" * 64 + "\n"
    volume_layout.replace(restored(new, kept), tokens, tmp_path, home)
    read, fresh = read_or_make(tmp_path / "secrets.json", {})
    assert (fresh, read.logins, read.tokens) == (False, old.logins, old.tokens)
    assert (read.database, read.s3_secret_access_key) == (new.database, new.s3_secret_access_key)
    assert [token.id for token in parse_tokens((tmp_path / "tokens/tokens").read_text())] == ["ana"]
    assert (tmp_path / "infer/tracking_password").read_text() == old.logins["infer"]
    assert (tmp_path / "tracking/db_password").read_text() == new.database["tracking"]
    assert not (home / ".mlflow/credentials").exists()


def test_rotation_ends_every_login_but_leaves_people_their_tokens(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "chown", lambda *_: None)
    old = make({})
    write(tmp_path / "secrets.json", old)
    for entry in volume_layout.entries(old):
        (tmp_path / entry.path).parent.mkdir(exist_ok=True)
        (tmp_path / entry.path).write_text(entry.text)
    with (tmp_path / "tokens/tokens").open("a") as file:
        file.write("ana promoter " + "0" * 64 + "\n")
    for name in ("home/models", "home/.mlflow", "jobs", "base"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "roles").write_text("")
    (tmp_path / "home/.mlflow/credentials").write_text(old.logins["trainer"])
    places = volume_layout.Places(
        secrets=tmp_path,
        trainer_home=tmp_path / "home",
        postgres_init=tmp_path,
        jobs=tmp_path / "jobs",
        roles=tmp_path / "roles",
        base=tmp_path / "base",
    )
    volume_layout.rotate(old, places)
    new, _ = read_or_make(tmp_path / "secrets.json", {})
    assert not {*new.logins.values(), *new.tokens.values()} & {*old.logins.values(), *old.tokens.values()}
    assert (new.database, new.s3_access_key_id) == (old.database, old.s3_access_key_id)
    by_id = {token.id: token.sha256 for token in parse_tokens((tmp_path / "tokens/tokens").read_text())}
    assert by_id.keys() == {*new.tokens, "ana"} and by_id["ana"] == "0" * 64
    assert by_id["reader"] == hashlib.sha256(new.tokens["reader"].encode()).hexdigest()
    assert new.logins["trainer"] in (tmp_path / "home/.mlflow/credentials").read_text()
    assert (tmp_path / "infer/tracking_password").read_text() == new.logins["infer"]
