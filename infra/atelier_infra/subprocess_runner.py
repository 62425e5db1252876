"""Runs docker and git; terraform/runner.py runs terraform."""

from __future__ import annotations

import subprocess
from collections import deque
from pathlib import Path
from typing import Protocol

from rich.console import Console

from atelier_infra.errors import ToolError

DOWNLOADS = {
    "docker": "https://docs.docker.com/engine/install/",
    "git": "https://git-scm.com/downloads",
    "terraform": "https://developer.hashicorp.com/terraform/install (1.11 or later)",
}


class Runner(Protocol):
    def run(self, arguments: list[str], *, description: str, stdin: str | None = None) -> str:
        """Runs a program until it exits and returns its output.

        Args:
            arguments: the program and its arguments; visible to every process of the machine, so never secrets.
            description: shown while it runs, for example "pushing tracking".
            stdin: text for standard input; secrets are passed here.

        Raises:
            ToolError: the program is missing or failed.
        """


class SubprocessRunner:
    """Shows the last line of a program's output while it runs."""

    def __init__(self, console: Console, folder: Path) -> None:
        self._console, self._folder = console, folder

    def run(self, arguments: list[str], *, description: str, stdin: str | None = None) -> str:
        output: list[str] = []
        last: deque[str] = deque(maxlen=20)
        try:
            process = subprocess.Popen(
                arguments,
                cwd=self._folder,
                stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        except FileNotFoundError:
            raise missing_program(arguments[0]) from None
        with process, self._console.status(description) as status:
            if stdin is not None and process.stdin:
                process.stdin.write(stdin)
                process.stdin.close()
            for line in process.stdout or ():
                output.append(line)
                last.append(line.rstrip())
                status.update(f"{description}  [dim]{line.strip()[:100].replace('[', '(')}[/]")
        if process.returncode:
            tail = "\n".join(f"    {line}" for line in last)
            raise ToolError(f"`{' '.join(arguments[:3])} …` failed with exit code {process.returncode}:\n{tail}")
        return "".join(output)


def missing_program(program: str) -> ToolError:
    """The error for a program that is not installed; it names the download page."""
    remedy = f"install it from {DOWNLOADS[program]}" if program in DOWNLOADS else "install it"
    return ToolError(f"{program} must be on the PATH and was not found; {remedy}")
