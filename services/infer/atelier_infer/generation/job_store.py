"""Jobs that clients may still ask for, and idempotency keys."""

from __future__ import annotations

import asyncio
import time

from atelier_infer.errors import IdempotencyConflictError, UnknownJobError
from atelier_infer.generation.job import GenerationJob


class JobStore:
    """Lives on the event loop's thread.

    Args:
        retention_s: how long a job is kept after its end.
        retention_bytes: for the images of ended jobs; the oldest go first.
    """

    def __init__(self, *, retention_s: float, retention_bytes: int) -> None:
        self._retention_s, self._retention_bytes = retention_s, retention_bytes
        self._jobs: dict[str, GenerationJob] = {}
        self._keys: dict[tuple[str, str], tuple[str, asyncio.Task[GenerationJob]]] = {}

    @property
    def nbytes(self) -> int:
        """Of encoded images."""
        return sum(job.nbytes for job in list(self._jobs.values()))

    def add(self, job: GenerationJob) -> None:
        self._jobs[job.id] = job

    def remove(self, job: GenerationJob) -> None:
        self._jobs.pop(job.id, None)

    def find(self, id: str, token_id: str) -> GenerationJob:
        """Evicts first.

        Raises:
            UnknownJobError: the token has no such job.
        """
        self.evict()
        job = self._jobs.get(id)
        if job is None or job.token_id != token_id:
            raise UnknownJobError(
                f"no job {id[:40]!r} of this token; jobs are kept for {self._retention_s:.0f} s after their end; send the "
                "request again"
            )
        return job

    def submission(self, token_id: str, key: str, fingerprint: str) -> asyncio.Task[GenerationJob] | None:
        """The submission of an equal request with the same idempotency key.

        Raises:
            IdempotencyConflictError: the key was used with another request.
        """
        known = self._keys.get((token_id, key))
        if known and known[0] != fingerprint:
            raise IdempotencyConflictError(f"the key {key!r} was used with another request; use a new key for a new request")
        return known[1] if known else None

    def add_submission(self, token_id: str, key: str, fingerprint: str, submission: asyncio.Task[GenerationJob]) -> None:
        self._keys[token_id, key] = fingerprint, submission

    def evict(self) -> None:
        """Removes expired jobs, then the oldest until the rest fits, and keys whose job failed or was removed."""
        ended = sorted((job for job in self._jobs.values() if job.ended_at is not None), key=_ended_at)
        nbytes = sum(job.nbytes for job in ended)
        for job in ended:
            expired = time.monotonic() - _ended_at(job) > self._retention_s
            if not expired and nbytes <= self._retention_bytes:
                break
            nbytes -= job.nbytes
            del self._jobs[job.id]
        for key, (_, submission) in list(self._keys.items()):
            if submission.done() and not self._reusable(submission):
                del self._keys[key]

    def _reusable(self, submission: asyncio.Task[GenerationJob]) -> bool:
        if submission.cancelled() or submission.exception():
            return False
        job = submission.result()
        return job.id in self._jobs and not job.error  # after a failure the request can be tried again


def _ended_at(job: GenerationJob) -> float:
    return job.ended_at or 0.0
