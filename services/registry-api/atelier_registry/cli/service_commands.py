"""Commands that call the running service."""

from __future__ import annotations

import argparse
import os
from typing import Any
from urllib.parse import quote

from atelier_registry.cli import formatting
from atelier_registry.cli.client import Client
from atelier_registry.cli.output import DONE, PROPOSED, REFUSED, UNAVAILABLE, show


def list_models(options: argparse.Namespace) -> int:
    return show(options, _client(options).list_all("/models", "models"), formatting.models)


def list_versions(options: argparse.Namespace) -> int:
    client = _client(options)
    if options.version:
        return show(options, client.get(f"{_model_path(options)}/versions/{options.version}"), formatting.version)
    path = f"{_model_path(options)}/versions?limit={min(options.limit, 100)}&runs=true"
    return show(options, client.list_all(path, "versions", max_items=options.limit), formatting.versions)


def compare(options: argparse.Namespace) -> int:
    path = f"{_model_path(options)}/compare?left={options.left}&right={options.right}"
    return show(options, _client(options).get(path), formatting.comparison)


def promote(options: argparse.Namespace) -> int:
    return _move_alias(options, f"{_model_path(options)}/versions/{options.version}/promote", {})


def roll_back(options: argparse.Namespace) -> int:
    return _move_alias(options, f"{_model_path(options)}/rollback", {"version": options.to} if options.to else {})


def retire(options: argparse.Namespace) -> int:
    path = f"{_model_path(options)}/versions/{options.version}/retire"
    decision = _client(options).post(path, {"reason": options.reason}, key=options.key)
    return show(options, decision, formatting.decision)


def end_proposal(options: argparse.Namespace) -> int:
    """`approve` or `reject`."""
    path = f"/decisions/{options.decision}/{options.command}"
    return show(options, _client(options).post(path, {"reason": options.reason}), formatting.decision)


def show_history(options: argparse.Namespace) -> int:
    client = _client(options)
    if options.at:
        alias = quote(options.alias or "champion", safe="")
        path = f"{_model_path(options)}/aliases/{alias}?at={quote(options.at, safe='')}"
        return show(options, client.get(path), formatting.alias)
    path = f"{_model_path(options)}/history?limit={options.limit}"
    path += f"&alias={quote(options.alias, safe='')}" if options.alias else ""
    path += f"&outcome={options.outcome}" if options.outcome else ""
    return show(options, client.get(path)["decisions"], formatting.decisions)


def list_subscribers(options: argparse.Namespace) -> int:
    client = _client(options)
    if options.ping:
        result = client.post(f"/subscribers/{quote(options.ping, safe='')}/ping", {})
        show(options, result, formatting.ping_result)
        return DONE if result["delivered"] else UNAVAILABLE
    return show(options, client.get("/subscribers")["subscribers"], formatting.subscribers)


def _move_alias(options: argparse.Namespace, path: str, fields: dict[str, Any]) -> int:
    body = {"alias": options.alias, "reason": options.reason, "force": options.force, "dry_run": options.dry_run} | fields
    decision = _client(options).post(path, body, key=options.key, if_match=options.if_match)
    show(options, decision, formatting.decision)
    if decision["outcome"] == "dry_run":
        return DONE if all(verdict["passed"] for verdict in decision["verdicts"]) else REFUSED
    return PROPOSED if decision["outcome"] == "proposed" else DONE


def _client(options: argparse.Namespace) -> Client:
    return Client(options.url, os.environ.get("ATELIER_TOKEN", ""))


def _model_path(options: argparse.Namespace) -> str:
    return f"/models/{quote(options.model, safe='')}"
