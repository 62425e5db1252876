"""How much memory this process may use: the limit of its control group, or the machine's memory."""

from __future__ import annotations

from pathlib import Path

MARGIN = 0.1
"""Fraction left to the page cache, sockets and everything else that the budget does not count."""

UNLIMITED = 2**60
"""cgroup v1 reports a number above this when there is no limit."""


def usable_bytes(root: Path = Path("/")) -> int:
    """The smallest limit that applies to this process, less MARGIN.

    Args:
        root: of the file system with /proc and /sys.

    Source: Linux, Documentation/admin-guide/cgroup-v2.rst (memory.max) and cgroup-v1/memory.rst (memory.limit_in_bytes).
    """
    limits = [_machine(root), *_cgroup_v2(root), *_cgroup_v1(root)]
    return int(min(limits) * (1 - MARGIN))


def _machine(root: Path) -> int:
    lines = (root / "proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal:"))


def _cgroup_v2(root: Path) -> list[int]:
    return _limits(root / "sys/fs/cgroup", _group(root, ""), "memory.max")


def _cgroup_v1(root: Path) -> list[int]:
    limits = _limits(root / "sys/fs/cgroup/memory", _group(root, "memory"), "memory.limit_in_bytes")
    return [limit for limit in limits if limit < UNLIMITED]


def _group(root: Path, controller: str) -> str:
    """Path of this process's group, from lines `hierarchy:controllers:path` of /proc/self/cgroup."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return ""
    parts = [line.split(":", 2) for line in lines]
    return next((path.lstrip("/") for _, names, path in parts if controller in names.split(",")), "")


def _limits(mount: Path, group: str, file: str) -> list[int]:
    """Of a group and its ancestors; a container may see its own group as the root."""
    folders = [mount, *(mount.joinpath(*Path(group).parts[:depth]) for depth in range(1, len(Path(group).parts) + 1))]
    limits = []
    for folder in folders:
        try:
            text = (folder / file).read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            limits.append(int(text))
    return limits
