"""The memory limit of the control group or the machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from atelier_infer.engine.memory_budget import MIB
from atelier_infer.engine.memory_limit import MARGIN, usable_bytes

PLENTY = 2**40


def machine(root: Path, *, mib: int, group: str = "", files: dict[str, str] | None = None) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal: {mib * 1024} kB\nMemFree: 1 kB\n")
    (root / "proc/self/cgroup").write_text(group)
    for name, text in (files or {}).items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("group", "files", "expected"),
    [
        ("", {}, 8000),
        ("0::/\n", {"memory.max": f"{2000 * MIB}\n"}, 2000),
        ("0::/\n", {"memory.max": "max\n"}, 8000),
        ("0::/a/b\n", {"a/memory.max": f"{500 * MIB}\n", "a/b/memory.max": "max\n"}, 500),
        ("0::/elsewhere\n", {"memory.max": f"{700 * MIB}\n"}, 700),
        ("5:cpu,memory:/a\n4:pids:/\n", {"memory/a/memory.limit_in_bytes": f"{600 * MIB}\n"}, 600),
        ("5:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712\n"}, 8000),
    ],
)
def test_the_limit_is_the_smallest_of_group_and_machine(
    tmp_path: Path, group: str, files: dict[str, str], expected: int
) -> None:
    root = machine(tmp_path, mib=8000, group=group, files=files)
    assert usable_bytes(root) == int(expected * MIB * (1 - MARGIN))
