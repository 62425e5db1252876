"""How much memory this process may use: what its control group or the machine has."""

from __future__ import annotations

from pathlib import Path

MARGIN = 0.1
"""Part of what there is that is left to the page cache, sockets and what no account sees."""

UNLIMITED = 2**60
"""Control groups of version 1 write a number above this where there is no limit."""


def usable_bytes(root: Path = Path("/")) -> int:
    """The smallest limit that holds for this process, less MARGIN.

    Args:
        root: of the file system that /proc and /sys lie in.

    Source: Linux, Documentation/admin-guide/cgroup-v2.rst (memory.max) and cgroup-v1/memory.rst (memory.limit_in_bytes).
    """
    limits = [_machine(root), *_version_2(root), *_version_1(root)]
    return int(min(limits) * (1 - MARGIN))


def _machine(root: Path) -> int:
    lines = (root / "proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal:"))


def _version_2(root: Path) -> list[int]:
    return _up(root / "sys/fs/cgroup", _group(root, ""), "memory.max")


def _version_1(root: Path) -> list[int]:
    found = _up(root / "sys/fs/cgroup/memory", _group(root, "memory"), "memory.limit_in_bytes")
    return [limit for limit in found if limit < UNLIMITED]


def _group(root: Path, controller: str) -> str:
    """Of this process, as /proc/self/cgroup says: `hierarchy:controllers:path`."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return ""
    parts = [line.split(":", 2) for line in lines]
    return next((path.lstrip("/") for _, names, path in parts if controller in names.split(",")), "")


def _up(mount: Path, group: str, file: str) -> list[int]:
    """The limits of a group and of all that it lies in; a container may see its own group as the root."""
    folders = [mount, *(mount.joinpath(*Path(group).parts[:depth]) for depth in range(1, len(Path(group).parts) + 1))]
    found = []
    for folder in folders:
        try:
            text = (folder / file).read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            found.append(int(text))
    return found
