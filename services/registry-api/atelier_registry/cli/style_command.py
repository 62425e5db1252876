"""The command `style`: shows the style of a model, and edits it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any, get_args
from urllib.parse import quote

from atelier_contracts.styles import SchedulerName

from atelier_registry.cli import formatting
from atelier_registry.cli.client import Client
from atelier_registry.cli.output import show

TEXTS = ("title", "description", "author", "licence")
WORDS = ("trigger_words", "tags")
RECOMMENDED: dict[str, Callable[[str], Any]] = {"scale": float, "steps": int, "scheduler": str, "guidance_scale": float}
FIELDS = (*TEXTS, *WORDS, *(f"recommended.{name}" for name in RECOMMENDED))


def add_style_commands(parser: argparse.ArgumentParser, add_service_options: Callable[[argparse.ArgumentParser], None]) -> None:
    """Adds `show` and `set`."""
    commands = parser.add_subparsers(dest="style_command", required=True)

    command = commands.add_parser("show", help="show the style, and where each field comes from")
    command.add_argument("model")
    command.add_argument("--version", type=int, help="of this version (the champion)")
    add_service_options(command)
    command.set_defaults(run=show_style)

    command = commands.add_parser("set", help="edit the style of all versions")
    command.add_argument("model")
    for name in TEXTS:
        command.add_argument(f"--{name}", default=argparse.SUPPRESS)
    for name in WORDS:
        command.add_argument(f"--{name.replace('_', '-')}", default=argparse.SUPPRESS, help="separated by commas")
    for name, type in RECOMMENDED.items():
        choices = get_args(SchedulerName) if name == "scheduler" else None
        flag = f"--recommended-{name.removesuffix('_scale') if name == 'guidance_scale' else name}"
        command.add_argument(flag, dest=f"recommended.{name}", type=type, choices=choices, default=argparse.SUPPRESS)
    command.add_argument("--unset", action="append", choices=FIELDS, default=[], help="take the edit of a field back")
    command.add_argument("--reason", required=True, help="recorded with the decision")
    command.add_argument("--key", help="idempotency key: repeating the request returns the same decision")
    command.add_argument("--if-match", help="ETag that the champion's style must have")
    add_service_options(command)
    command.set_defaults(run=set_style)


def show_style(options: argparse.Namespace) -> int:
    query = f"?version={options.version}" if options.version else ""
    return show(options, _client(options).get(f"{_path(options)}{query}"), formatting.style)


def set_style(options: argparse.Namespace) -> int:
    given = vars(options)
    values = {name: given[name] for name in FIELDS if name in given} | dict.fromkeys(options.unset)
    patch: dict[str, Any] = {}
    for field, value in values.items():
        group, _, name = field.rpartition(".")
        target = patch.setdefault(group, {}) if group else patch
        target[name] = [word.strip() for word in value.split(",") if word.strip()] if value and name in WORDS else value
    body = {"reason": options.reason, "style": patch}
    decision = _client(options).patch(_path(options), body, key=options.key, if_match=options.if_match)
    return show(options, decision, formatting.decision)


def _client(options: argparse.Namespace) -> Client:
    return Client(options.url, os.environ.get("ATELIER_TOKEN", ""))


def _path(options: argparse.Namespace) -> str:
    return f"/models/{quote(options.model, safe='')}/style"
