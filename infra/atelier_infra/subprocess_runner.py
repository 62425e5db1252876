"""Programs that the command runs: docker and git. Terraform has a module of its own."""

from __future__ import annotations

import subprocess
from collections import deque
from pathlib import Path
from typing import Protocol

from rich.console import Console

from atelier_infra.errors import ToolError

GET = {
    "docker": "https://docs.docker.com/engine/install/",
    "git": "https://git-scm.com/downloads",
    "terraform": "https://developer.hashicorp.com/terraform/install (1.11 or later)",
}


class Runner(Protocol):
    """Runs a program to its end."""

    def run(self, arguments: list[str], *, said: str, stdin: str | None = None) -> str:
        """Returns what the program printed; raises ToolError if it is missing or failed."""


class SubprocessRunner:
    """The real ones. While a program runs, its last line is shown."""

    def __init__(self, console: Console, folder: Path) -> None:
        self._console, self._folder = console, folder

    def run(self, arguments: list[str], *, said: str, stdin: str | None = None) -> str:
        """See `Runner`. `stdin` is how secrets are handed over: arguments are visible to every process of the machine."""
        printed: list[str] = []
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
            raise missing(arguments[0]) from None
        with process, self._console.status(said) as status:
            if stdin is not None and process.stdin:
                process.stdin.write(stdin)
                process.stdin.close()
            for line in process.stdout or ():
                printed.append(line)
                last.append(line.rstrip())
                status.update(f"{said}  [dim]{line.strip()[:100].replace('[', '(')}[/]")
        if process.returncode:
            tail = "\n".join(f"    {line}" for line in last)
            raise ToolError(f"`{' '.join(arguments[:3])} …` failed with exit code {process.returncode}:\n{tail}")
        return "".join(printed)


def missing(program: str) -> ToolError:
    """What to say when a program is not installed."""
    return ToolError(f"{program} is needed and was not found; get it at {GET.get(program, 'its own site')}")
