"""The parser of the command line: every command, with its options and the function that runs it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable

from atelier_registry.cli import service_commands
from atelier_registry.cli.style_command import add_style_commands
from atelier_registry.cli.token_command import add_token_command
from atelier_registry.cli.verify_command import add_verify_command

EXIT_STATUSES = """\
Exit status: 0 done, 1 unexpected error, 2 wrong usage or settings, 3 refused by rules or preconditions, 4 not found, 5 no token
or not allowed, 6 unavailable, try again, 7 proposed: somebody else must approve, 8 the chain of decisions is broken."""

Run = Callable[[argparse.Namespace], int]


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m atelier_registry",
        description="Without a command: runs the service. The token is read from ATELIER_TOKEN, never from the command line.",
        epilog=EXIT_STATUSES,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    _add_reading_commands(commands)
    _add_deciding_commands(commands)
    add_style_commands(_add_command(commands, "style", "show or edit the style of a model"), _add_service_options)
    add_token_command(
        _add_command(commands, "token", "issue, list and revoke tokens in the token file"),
        os.environ.get("ATELIER_REGISTRY_TOKEN_FILE"),
    )
    add_verify_command(_add_command(commands, "verify", "check that no decision was changed, removed or added"))
    return parser


def _add_reading_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    _add_service_command(commands, "models", service_commands.list_models, "list models and their aliases")

    command = _add_service_command(commands, "versions", service_commands.list_versions, "list versions, or show one")
    command.add_argument("model")
    command.add_argument("version", nargs="?", type=int)
    command.add_argument("--limit", type=int, default=20, help="maximum number of versions (%(default)s)")

    command = _add_service_command(commands, "compare", service_commands.compare, "show the differences between two versions")
    command.add_argument("model")
    command.add_argument("left", type=int)
    command.add_argument("right", type=int)

    command = _add_service_command(
        commands, "history", service_commands.show_history, "list decisions, or show where an alias pointed at a time"
    )
    command.add_argument("model")
    command.add_argument("--alias", help="only of this alias")
    command.add_argument("--outcome", choices=["done", "refused", "proposed", "rejected", "pending", "failed"])
    command.add_argument("--limit", type=int, default=50, help="maximum number of decisions (%(default)s)")
    command.add_argument("--at", help="a time such as 2026-03-01T12:00:00Z: show where the alias (champion) pointed then")

    command = _add_service_command(
        commands, "subscribers", service_commands.list_subscribers, "list the subscribers and their positions in the events"
    )
    command.add_argument("--ping", metavar="NAME", help="send a test message to one; status 6 where it is not accepted")


def _add_deciding_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = _add_service_command(commands, "promote", service_commands.promote, "point an alias at a version")
    command.add_argument("model")
    command.add_argument("version", type=int)
    _add_decision_options(command)

    command = _add_service_command(
        commands, "rollback", service_commands.roll_back, "point an alias at its previous version, or at a named one"
    )
    command.add_argument("model")
    command.add_argument("--to", type=int, help="a version")
    _add_decision_options(command)

    command = _add_service_command(commands, "retire", service_commands.retire, "retire a version")
    command.add_argument("model")
    command.add_argument("version", type=int)
    command.add_argument("--reason", required=True, help="recorded with the decision")
    command.add_argument("--key", help="idempotency key")

    for name, help in (("approve", "carry out what somebody else proposed"), ("reject", "end a proposal")):
        command = _add_service_command(commands, name, service_commands.end_proposal, help)
        command.add_argument("decision", type=int, help="id of the decision")
        command.add_argument("--reason", required=True, help="recorded with the decision")


def _add_decision_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--alias", default="champion", help="name of the alias (%(default)s)")
    command.add_argument("--reason", required=True, help="recorded with the decision")
    command.add_argument("--force", action="store_true", help="admin only: override rules; recorded with the decision")
    command.add_argument("--dry-run", action="store_true", help="show the outcome only; status 3 where it would be refused")
    command.add_argument("--key", help="idempotency key: repeating the request returns the same decision")
    command.add_argument("--if-match", help="ETag that the alias must have")


def _add_service_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, run: Run, help: str
) -> argparse.ArgumentParser:
    command = _add_command(commands, name, help)
    _add_url(command)
    command.set_defaults(run=run)
    return command


def _add_url(command: argparse.ArgumentParser) -> None:
    url = os.environ.get("ATELIER_URL", "http://127.0.0.1:8001")
    command.add_argument("--url", default=url, help="address of registry-api (ATELIER_URL; %(default)s)")


def _add_service_options(command: argparse.ArgumentParser) -> None:
    """To a command of a command."""
    command.add_argument("--json", action="store_true", help="print JSON")
    _add_url(command)


def _add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, help: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=help, description=help)
    command.add_argument("--json", action="store_true", help="print JSON")
    return command
