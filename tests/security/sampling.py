"""Highest memory of a container, sampled inside it fifty times a second."""

from __future__ import annotations

import subprocess

from ..integration.containers import Server

LOOP = """
import select, sys
from pathlib import Path
places = (Path("/sys/fs/cgroup/memory.stat"), Path("/sys/fs/cgroup/memory/memory.stat"))
stat = next(place for place in places if place.exists())
peak = 0
while True:
    found = dict(line.split() for line in stat.read_text().splitlines())
    used = int(found.get("total_rss", found.get("anon", 0))) + int(found.get("total_shmem", found.get("shmem", 0)))
    if used > peak:
        peak = used
        print(peak, flush=True)
    if select.select([sys.stdin], [], [], 0.02)[0]:
        break
"""
"""Processes and temporary file systems; the cache of files can be given back and does not count."""


class Peak:
    """Starts the sampling and ends it."""

    def __init__(self, server: Server) -> None:
        command = ["docker", "exec", "-i", server.name, "python3", "-S", "-c", LOOP]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Peak:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def end_mib(self) -> float:
        """The highest sample in MiB; the last one before its end where the container was killed."""
        output, _ = self._process.communicate("\n", timeout=60)
        return int(output.split()[-1]) / 2**20
