"""Polls AWS until a condition holds, and shows the time waited."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from rich.console import Console

from atelier_infra.aws.client import translate_errors
from atelier_infra.errors import NotReadyError

T = TypeVar("T")


class Poller:
    """`sleep` and `now` are arguments so that tests need not wait."""

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

    def until(self, condition: str, check: Callable[[], tuple[T | None, str]], timeout_s: float) -> T:
        """Calls `check` until it returns a result.

        Args:
            condition: what is waited for, for example "the database is available".
            check: returns a result or None, and the current state in words.
            timeout_s: seconds to wait.

        Raises:
            NotReadyError: the time ran out.
            AwsError: AWS refused a call or did not respond.
        """
        start = self._now()
        with self.console.status(f"waiting until {condition}") as status:
            while True:
                with translate_errors(self._region):
                    result, state = check()
                waited_s = self._now() - start
                if result is not None:
                    return result
                if waited_s >= timeout_s:
                    raise NotReadyError(
                        f"timed out after {waited_s:.0f} s waiting until {condition}; last state: {state}; "
                        "run `status` to check again"
                    )
                status.update(f"waiting until {condition}  [dim]{waited_s:.0f} s, {state}[/]")
                self._sleep(self._pause_s)
