"""`python -m atelier_embedded demo|serve`: all services on one machine, without Docker, cloud or GPU."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from types import FrameType

from rich.console import Console

from atelier_embedded.errors import EmbeddedError
from atelier_embedded.workspace import Workspace


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0 done, 1 failed, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="python -m atelier_embedded", description=__doc__)
    parser.add_argument("command", choices=("demo", "serve"))
    parser.add_argument("--workspace", type=Path, default=Path("demo"), help="folder for data, databases, logs and results")
    parser.add_argument("--base", type=Path, default=Path("models/tiny-sd"), help="diffusers folder of the base model")
    parsed = parser.parse_args(arguments)
    console = Console()
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background job starts with Ctrl-C ignored
        signal.signal(number, _interrupt)
    workspace = Workspace(parsed.workspace.resolve())
    try:
        if parsed.command == "demo":
            from atelier_embedded.demo import demo

            demo(workspace, parsed.base.resolve(), console)
        else:
            from atelier_embedded.serve import serve

            serve(workspace, console)
    except (EmbeddedError, OSError) as error:
        console.print(f"[bold red]error[/] {error}", highlight=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        state = "finished stages are kept; run it again to continue" if parsed.command == "demo" else "all services are down"
        console.print(f"\nstopped; {state}", highlight=False)
        return 130 if parsed.command == "demo" else 0
    return 0


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
