"""Waits for something in AWS, and shows for how long already."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from rich.console import Console

from atelier_infra.aws.client import translated
from atelier_infra.errors import NotReadyError

T = TypeVar("T")


class Poller:
    """Asks again until the answer is there. Tests give a clock that costs no time."""

    def __init__(
        self,
        console: Console,
        region: str | None,
        *,
        pause_s: float = 5.0,
        sleep: Callable[[float], None] = time.sleep,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console, self._region, self._pause_s, self._sleep, self._now = console, region, pause_s, sleep, now

    def until(self, said: str, look: Callable[[], tuple[T | None, str]], timeout_s: float) -> T:
        """Waits.

        Args:
            said: what for, as in "the database is available".
            look: returns the result, or None and how things stand.
            timeout_s: for how long.

        Returns:
            The result.

        Raises:
            NotReadyError: time is up.
            AwsError: AWS refused an answer.
        """
        begun = self._now()
        with self.console.status(f"waiting until {said}") as status:
            while True:
                with translated(self._region):
                    result, stand = look()
                waited_s = self._now() - begun
                if result is not None:
                    return result
                if waited_s >= timeout_s:
                    raise NotReadyError(
                        f"after {waited_s:.0f} s of waiting until {said}, it stands so: {stand}; look again with `status`"
                    )
                status.update(f"waiting until {said}  [dim]{waited_s:.0f} s, {stand}[/]")
                self._sleep(self._pause_s)
