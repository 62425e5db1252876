"""Exit statuses, and what a command prints: a table for people, or JSON for programs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

DONE, FAILED, USAGE, REFUSED, NOT_FOUND, NOT_ALLOWED, UNAVAILABLE, PROPOSED, BROKEN = range(9)


def show(options: argparse.Namespace, content: Any, format_text: Callable[[Any], str]) -> int:
    """Prints a result; returns `DONE`."""
    if options.json:
        print_json(content)
    else:
        sys.stdout.write(format_text(content) + "\n")
    return DONE


def fail(options: argparse.Namespace, message: str, status: int, document: Mapping[str, Any] | None = None) -> int:
    """Prints a message to standard error, and with `--json` the document to standard output; returns the status."""
    if options.json and document:
        print_json(document)
    sys.stderr.write(f"{message}\n")
    return status


def print_json(content: Any) -> None:
    sys.stdout.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
