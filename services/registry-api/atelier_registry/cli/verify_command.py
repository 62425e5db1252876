"""The command `verify`: checks the chain of decisions in the database, and compares it with the anchor in MLflow."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from atelier_registry.cli.output import BROKEN, UNAVAILABLE, USAGE, fail, show

PREFIX = "ATELIER_REGISTRY_"


def add_verify_command(command: argparse.ArgumentParser) -> None:
    """Adds the command's arguments, and the function that runs it."""

    def add_setting(option: str, setting: str, help: str = "{}") -> None:
        command.add_argument(option, default=os.environ.get(PREFIX + setting), help=help.format(PREFIX + setting))

    add_setting("--database", "DATABASE_URL")
    add_setting("--password-file", "DATABASE_PASSWORD_FILE")
    command.add_argument("--head", help="a hash that verify printed earlier; it must still occur")
    add_setting("--tracking", "TRACKING_URI", "MLflow, which stores the hash of the newest entry ({})")
    add_setting("--tracking-password-file", "TRACKING_PASSWORD_FILE")
    command.add_argument("--no-anchor", action="store_true", help="check the chain alone, without its anchor in MLflow")
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from sqlalchemy.exc import ArgumentError

    from atelier_registry.config.settings import with_password
    from atelier_registry.errors import RegistryApiError
    from atelier_registry.storage import hash_chain  # imports that take a second, which other commands do not need
    from atelier_registry.storage.chain_reader import ChainReader
    from atelier_registry.storage.database import open_database

    if not options.database:
        return fail(options, "no database: set ATELIER_REGISTRY_DATABASE_URL, or use --database", USAGE)
    try:
        address = with_password(options.database, options.password_file and Path(options.password_file))
    except (OSError, ArgumentError) as error:
        return fail(options, f"the database's address or password cannot be read: {error}", USAGE)
    engine = open_database(address)
    try:
        anchor = _read_anchor(options)  # before the rows, since entries may be added meanwhile
        chain = hash_chain.verify(ChainReader(engine).rows(), options.head, anchor)
    except hash_chain.BrokenChainError as error:
        return fail(options, f"the chain is broken: {error}", BROKEN, {"intact": False, "problem": str(error)})
    except RegistryApiError as error:
        return fail(options, f"{error} ({error.__cause__})"[:500], UNAVAILABLE)
    except OSError as error:
        return fail(options, f"the tracking server's password cannot be read: {error}", USAGE)
    finally:
        engine.dispose()
    anchored = anchor[0] if anchor else None
    content = {"intact": True, "entries": chain.entries, "head": chain.head, "anchored_entry": anchored}
    return show(options, content, _format)


def _format(content: dict[str, Any]) -> str:
    anchored = content["anchored_entry"]
    anchor = f"entry {anchored} matches its anchor in MLflow" if anchored else "not compared with an anchor"
    return f"{content['entries']} entries, none changed or missing; {anchor}; head {content['head']}"


def _read_anchor(options: argparse.Namespace) -> tuple[int, str] | None:
    """The entry anchored in MLflow; None without one, or without a tracking server.

    Raises:
        BrokenChainError: the anchor is malformed.
        TrackingUnavailableError: MLflow does not answer.
    """
    if options.no_anchor or not options.tracking:
        return None
    from atelier_registry.config.settings import TRACKING_PASSWORD
    from atelier_registry.decisions.anchor_stores import MlflowAnchorStore
    from atelier_registry.models.mlflow_client import configure_client
    from atelier_registry.models.mlflow_registry import MlflowRegistry

    configure_client(timeout_s=5)
    if options.tracking_password_file and not os.environ.get(TRACKING_PASSWORD):
        os.environ[TRACKING_PASSWORD] = Path(options.tracking_password_file).read_text().strip()
    return MlflowAnchorStore(MlflowRegistry(options.tracking)).read()
