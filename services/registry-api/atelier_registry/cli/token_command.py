"""The command `token`: issues, lists and revokes tokens in the token file of this machine."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from atelier_contracts.tokens import Role

from atelier_registry.cli import formatting
from atelier_registry.cli.output import show
from atelier_registry.cli.token_file import issue, list_tokens, revoke


def add_token_command(command: argparse.ArgumentParser, default_file: str | None) -> None:
    """Adds the command's arguments, and the function that runs it."""
    command.add_argument("action", choices=["issue", "list", "revoke"])
    command.add_argument("id", nargs="?", help="name of the token, and actor of its decisions")
    command.add_argument("role", nargs="?", choices=[role.name for role in Role])
    command.add_argument("--file", default=default_file, help="ATELIER_REGISTRY_TOKEN_FILE")
    command.set_defaults(run=lambda options: _run(command, options))


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    _check_arguments(parser, options)
    file = Path(options.file)
    if options.action == "issue":
        secret = issue(file, options.id, Role[options.role])
        sys.stderr.write(f"{options.id} has the role {options.role}; this is the only time that the token is shown:\n")
        return show(options, {"id": options.id, "role": options.role, "token": secret}, lambda token: str(token["token"]))
    if options.action == "revoke":
        revoke(file, options.id)
        return show(options, {"id": options.id, "revoked": True}, lambda token: f"{token['id']} is revoked")
    return show(options, [{"id": token.id, "role": token.role.name} for token in list_tokens(file)], formatting.tokens)


def _check_arguments(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Argparse cannot express which arguments each action needs."""
    if not options.file:
        parser.error("no token file: set ATELIER_REGISTRY_TOKEN_FILE, or use --file")
    if options.action == "issue" and not (options.id and options.role):
        parser.error("issue needs an id and a role, such as: token issue ana promoter")
    if options.action == "revoke" and not options.id:
        parser.error("revoke needs an id, such as: token revoke ana")
