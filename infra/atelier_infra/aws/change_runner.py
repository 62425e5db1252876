"""Every call that changes something in AWS goes through here, so that --dry-run needs no second path through the code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.console import Console

from atelier_infra.aws.client import translated


class ChangeRunner:
    """Does what it is told and says so, or only says what it would do."""

    def __init__(self, console: Console, region: str | None, dry_run: bool) -> None:
        self._console, self._region, self.dry_run = console, region, dry_run

    def make(self, said: str, call: Callable[..., Any], **arguments: Any) -> Any:
        """Calls AWS.

        Args:
            said: what it does, as in "start the database".
            call: method of a boto3 client.
            arguments: of the call; they are not printed, as they may hold secrets.

        Returns:
            The answer; None in a dry run.

        Raises:
            AwsError: AWS refused.
        """
        if self.dry_run:
            self._console.print(f"would {said}", highlight=False)
            return None
        with self._console.status(said), translated(self._region):
            answer = call(**arguments)
        self._console.print(f"[green]✓[/] {said}", highlight=False)
        return answer
