"""Decides which images share the next step: fair between image sizes and between senders, within the limits of one step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field

from atelier_infer.engine.denoising_task import DenoisingTask


@dataclass
class Bucket:
    """Tasks with one bucket key, each list in order of arrival.

    Attributes:
        running: tasks that take steps.
        waiting: tasks that have not joined, or were preempted.
        preempted: those of `waiting` that have taken steps before.
        used_s: time of the steps of this bucket.
    """

    running: list[DenoisingTask] = field(default_factory=list)
    waiting: list[DenoisingTask] = field(default_factory=list)
    preempted: list[DenoisingTask] = field(default_factory=list)
    used_s: float = 0.0


class BatchScheduler:
    """Buckets share the time equally; within a bucket all running tasks take every step together.

    A task joins when its rows fit with the running ones and stays until it is done, so none starves. Of the waiting tasks
    the one whose sender has the fewest running tasks joins first, then the oldest.
    """

    def __init__(
        self,
        *,
        rows_limit: int,
        rank_limit: int,
        fits_memory: Callable[[Sequence[DenoisingTask]], bool] = lambda tasks: True,
    ) -> None:
        """A task that breaks one of the first two limits by itself runs alone.

        Args:
            rows_limit: batch rows of one step.
            rank_limit: sum of the ranks of the adapters in one step.
            fits_memory: whether a step of these tasks of one bucket fits now.
        """
        self._rows_limit, self._rank_limit, self._fits_memory = rows_limit, rank_limit, fits_memory
        self._buckets: dict[Hashable, Bucket] = {}
        self._current: Bucket | None = None

    def __len__(self) -> int:
        return sum(len(bucket.running) + len(bucket.waiting) for bucket in self._buckets.values())

    def __iter__(self) -> Iterator[DenoisingTask]:
        for bucket in self._buckets.values():
            yield from bucket.running
            yield from bucket.waiting

    @property
    def running(self) -> int:
        return sum(len(bucket.running) for bucket in self._buckets.values())

    def add(self, task: DenoisingTask) -> None:
        """A bucket that was empty starts level with the one that used the least time."""
        if task.bucket_key not in self._buckets:
            used_s = min((bucket.used_s for bucket in self._buckets.values()), default=0.0)
            self._buckets[task.bucket_key] = Bucket(used_s=used_s)
        self._buckets[task.bucket_key].waiting.append(task)

    def remove(self, task: DenoisingTask) -> None:
        bucket = self._buckets.get(task.bucket_key, Bucket())
        for tasks in (bucket.running, bucket.waiting, bucket.preempted):
            if task in tasks:
                tasks.remove(task)
        if not bucket.running and not bucket.waiting:
            self._buckets.pop(task.bucket_key, None)

    def next_batch(self) -> list[DenoisingTask]:
        """Tasks of the next step, oldest first; empty when there are none, or no memory for any."""
        for bucket in sorted(self._buckets.values(), key=lambda bucket: bucket.used_s):
            while len(bucket.running) > 1 and not self._fits_memory(bucket.running):
                self._preempt(bucket, 1)
            self._admit(bucket)
            if bucket.running and self._fits_memory(bucket.running):
                self._current = bucket
                return list(bucket.running)
        return []

    def split(self) -> None:
        """Preempts the later half of the last batch, after it ran out of memory; completed steps are kept."""
        if self._current:
            self._preempt(self._current, len(self._current.running) // 2)

    def record_time(self, seconds: float) -> None:
        """Charges the last batch's bucket."""
        if self._current:
            self._current.used_s += seconds

    def _admit(self, bucket: Bucket) -> None:
        running = Counter(task.sender for other in self._buckets.values() for task in other.running)
        while bucket.waiting:
            # min() takes the oldest of equals; a preempted task has waited longest
            task = min(bucket.waiting, key=lambda task: (task not in bucket.preempted, running[task.sender]))
            if bucket.running and not self._fits(bucket.running, task):
                return
            bucket.waiting.remove(task)
            if task in bucket.preempted:
                bucket.preempted.remove(task)
            bucket.running.append(task)
            running[task.sender] += 1

    def _fits(self, running: list[DenoisingTask], task: DenoisingTask) -> bool:
        rows = sum(other.rows for other in running) + task.rows
        ranks = {digest: rank for other in (*running, task) for digest, rank in other.adapter_ranks.items()}
        if rows > self._rows_limit or sum(ranks.values()) > self._rank_limit:
            return False
        return self._fits_memory([*running, task])

    def _preempt(self, bucket: Bucket, count: int) -> None:
        tasks = bucket.running[len(bucket.running) - count :]
        del bucket.running[len(bucket.running) - count :]
        bucket.waiting[:0] = tasks
        bucket.preempted += tasks
