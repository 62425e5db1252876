"""The command `verify`: checks the chain of decisions in the database, and compares it with its anchors."""

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
    add_setting("--anchor-bucket", "ANCHOR_BUCKET", "S3 bucket with anchors ({})")
    command.add_argument("--no-anchor", action="store_true", help="check the chain alone, without its anchors")
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
        anchors = _read_anchors(options)  # before the rows, since entries may be added meanwhile
        chain = hash_chain.verify(ChainReader(engine).rows(), options.head, anchors)
        if missing := [store for store, anchor in anchors.items() if not anchor[0] and chain.entries]:
            raise hash_chain.BrokenChainError(f"no entry is anchored in {', '.join(missing)}")
    except hash_chain.BrokenChainError as error:
        return fail(options, f"the chain is broken: {error}", BROKEN, {"intact": False, "problem": str(error)})
    except RegistryApiError as error:
        return fail(options, f"{error} ({error.__cause__})"[:500], UNAVAILABLE)
    except OSError as error:
        return fail(options, f"the tracking server's password cannot be read: {error}", USAGE)
    finally:
        engine.dispose()
    anchored = {store: anchor[0] for store, anchor in anchors.items()}
    return show(options, {"intact": True, "entries": chain.entries, "head": chain.head, "anchored": anchored}, _format)


def _format(content: dict[str, Any]) -> str:
    anchors = [f"entry {entry} matches its anchor in {store}" for store, entry in content["anchored"].items()]
    compared = "; ".join(anchors) or "not compared with an anchor"
    return f"{content['entries']} entries, none changed or missing; {compared}; head {content['head']}"


def _read_anchors(options: argparse.Namespace) -> dict[str, tuple[int, str]]:
    """Anchored entry by store. A bucket without anchors counts as (0, GENESIS), MLflow without one is left out.

    Raises:
        BrokenChainError: an anchor is malformed, or was overwritten or deleted.
        UnavailableError: a store does not answer.
    """
    if options.no_anchor:
        return {}
    from atelier_registry.config.settings import TRACKING_PASSWORD
    from atelier_registry.decisions.anchor_stores import MlflowAnchorStore, S3AnchorStore
    from atelier_registry.models.mlflow_client import configure_client
    from atelier_registry.models.mlflow_registry import MlflowRegistry
    from atelier_registry.storage.hash_chain import GENESIS

    anchors = {}
    if options.tracking:
        configure_client(timeout_s=5)
        if options.tracking_password_file and not os.environ.get(TRACKING_PASSWORD):
            os.environ[TRACKING_PASSWORD] = Path(options.tracking_password_file).read_text().strip()
        store = MlflowAnchorStore(MlflowRegistry(options.tracking))
        if (anchor := store.read()) is not None:
            anchors[store.name] = anchor
    if options.anchor_bucket:
        bucket = S3AnchorStore(options.anchor_bucket)
        anchors[bucket.name] = bucket.read() or (0, GENESIS)
    return anchors
