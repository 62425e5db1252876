"""docs/how-to/operations.md: its commands are valid, and its outputs are those of the code."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml
from atelier_infra import cli
from atelier_tracking.maintenance import jobs
from atelier_twin import summary, volume_layout

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/how-to/operations.md").read_text()
SERVICES = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
BLOCKS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
COMMANDS = sorted({*BLOCKS, *re.findall(r"`((?:docker compose|python -m) [^`]+)`", PAGE)})
TWIN_JOBS = {
    "tokens": {"issue", "revoke", "list"},
    "secrets": {"login", "rotate", "summary"},
    "backup": set(),
    "restore": set(),
}


def test_the_page_has_commands() -> None:
    assert len(BLOCKS) > 15


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_is_valid(line: str) -> None:
    words = shlex.split(line)
    if words[:3] == ["python", "-m", "atelier_infra"]:
        cli.parser().parse_args(words[3:])
        return
    assert words[:2] == ["docker", "compose"]
    if words[2:4] == ["run", "--rm"]:
        service, *rest = words[4:]
        assert service in SERVICES
        if service == "tracking":
            jobs.parse(rest)
        elif rest and TWIN_JOBS[service]:
            assert rest[0] in TWIN_JOBS[service]
    else:
        assert words[2] in {"up", "stop", "build", "down"}
        assert {word for word in words[3:] if not word.startswith("--")} <= set(SERVICES)


def test_every_operator_command_is_documented() -> None:
    for command in ("upgrade", "backup", "restore", "gc", "up", "init"):
        assert any(line.startswith(f"python -m atelier_infra {command}") for line in BLOCKS), command
    for job in ("backup", "restore", "tracking migrate", "tracking gc", "secrets rotate"):
        assert any(line.startswith(f"docker compose run --rm {job}") for line in BLOCKS), job


def test_documented_outputs_are_printed_by_the_code() -> None:
    assert volume_layout.RESTART_COMMAND in BLOCKS and f"end with: {volume_layout.RESTART_COMMAND}" in PAGE
    assert summary.LOGIN_HINT.removeprefix("print the login with: ") in BLOCKS
    code = "".join(
        file.read_text() for folder in ("twin", "infra", "services/tracking") for file in (ROOT / folder).rglob("*.py")
    )
    for words in (
        "objects and the database",
        "it holds logins and tokens",
        "restore with: docker compose run --rm restore",
        "is restored: ",
        "migrated from revision",
        "would be removed; pass --yes to remove them",
        "to go back (this loses what was written since the snapshot)",
        "adopted the secrets of",
        "and another machine wrote it",
        "new logins and tokens; the old ones end with",
    ):
        assert words in code and words in PAGE, words
