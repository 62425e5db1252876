"""Makes every AWS call that changes something, so that --dry-run is implemented in one place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.console import Console

from atelier_infra.aws.client import translate_errors


class ChangeRunner:
    """Makes calls and prints their descriptions; in a dry run it only prints them."""

    def __init__(self, console: Console, region: str | None, dry_run: bool) -> None:
        self.console, self._region, self.dry_run = console, region, dry_run

    def run(self, description: str, call: Callable[..., Any], **arguments: Any) -> Any:
        """Makes one call.

        Args:
            description: what the call does, in the imperative: "start the database".
            call: method of a boto3 client.
            arguments: arguments of the call; never printed, as they may be secrets.

        Returns:
            The response; None in a dry run.

        Raises:
            AwsError: AWS refused the call or did not respond.
        """
        if self.dry_run:
            self.console.print(f"would {description}", highlight=False)
            return None
        with self.console.status(description), translate_errors(self._region):
            response = call(**arguments)
        self.console.print(f"[green]✓[/] {description}", highlight=False)
        return response
