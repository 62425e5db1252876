"""Measures the twin's images and how long they take to start, and writes or checks the table in a Markdown page.

    python scripts/image_sizes.py --write docs/reference/images.md    # after `docker compose --profile trainer build`
    python scripts/image_sizes.py --check docs/reference/images.md    # exit code 1: a size differs by more than a tenth

A start is from the container's own start to its first successful health check, with an empty database and no other load.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PROJECT = "atelier-sizes"
SERVICES = ("tracking", "registry-api", "infer", "trainer")
PORTS = {"TRACKING_PORT": "0", "REGISTRY_API_PORT": "0", "INFER_PORT": "0", "S3_PORT": "0"}  # 0: any free one
BEGIN, END = "<!-- sizes: make sizes -->", "<!-- end of sizes -->"
TOLERANCE = 0.1
MB = 1e6


def main() -> int:
    """Measures, then writes or checks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", type=Path, metavar="PAGE", help="put the table between its markers")
    what.add_argument("--check", type=Path, metavar="PAGE", help="compare the sizes in the table with the images")
    parsed = parser.parse_args()
    sizes = {service: _size(service) for service in SERVICES}
    if parsed.check:
        return _check(parsed.check, sizes)
    text = parsed.write.read_text()
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    parsed.write.write_text(f"{before}{BEGIN}\n{_table(sizes, _starts())}{END}{after}")
    return 0


def _docker(*arguments: str) -> str:
    return subprocess.run(
        ["docker", *arguments], cwd=ROOT, env=os.environ | PORTS, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def _inspect(name: str) -> Any:
    return json.loads(_docker("inspect", name))[0]


def _size(service: str) -> tuple[float, float]:
    """Bytes of the image, and how many of them lie above the image that it is built on."""
    last = re.findall(r"^FROM (\S+)", (ROOT / f"services/{service}/Dockerfile").read_text(), re.MULTILINE)[-1]
    total = _inspect(f"atelier/{service}:{os.environ.get('ATELIER_TAG', 'dev')}")["Size"]
    return total, total - _inspect(last)["Size"]


def _starts() -> dict[str, float]:
    """Seconds from start to healthy, by service."""
    compose = ("compose", "--project-name", PROJECT)
    try:
        # without the job first-version, whose end --wait would take for a failure
        _docker(*compose, "up", "--detach", "--wait", "--quiet-pull", "tracking", "registry-api", "infer")
        lines = _docker(*compose, "ps", "--format", "json").splitlines()
        containers = {state["Service"]: _inspect(state["ID"]) for state in map(json.loads, lines)}
        return {name: _seconds(state["State"]) for name, state in containers.items() if "Health" in state["State"]}
    finally:
        _docker(*compose, "down", "--volumes", "--timeout", "5")


def _seconds(state: Any) -> float:
    healthy = next(check["End"] for check in state["Health"]["Log"] if check["ExitCode"] == 0)
    return (_moment(healthy) - _moment(state["StartedAt"])).total_seconds()


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d*", r"\1", text).replace("Z", "+00:00"))


def _table(sizes: dict[str, tuple[float, float]], starts: dict[str, float]) -> str:
    rows = ["| image | MB in all | MB above its base | s from start to healthy |", "|---|---|---|---|"]
    for service, (total, above) in sizes.items():
        start = f"{starts[service]:.0f}" if service in starts else "a job"
        rows.append(f"| `{service}` | {total / MB:.0f} | {above / MB:.0f} | {start} |")
    return "\n".join(rows) + "\n"


def _check(readme: Path, sizes: dict[str, tuple[float, float]]) -> int:
    told = dict(
        re.findall(r"^\| `([\w-]+)` \| \d+ \| (\d+) \|", readme.read_text().split(BEGIN)[1].split(END)[0], re.MULTILINE)
    )
    wrong = [
        f"{service}: {readme} says {told.get(service)} MB above its base; measured {above / MB:.0f}; run `make sizes`"
        for service, (_, above) in sizes.items()
        if service not in told or abs(above / MB - int(told[service])) > TOLERANCE * int(told[service])
    ]
    sys.stderr.write("".join(f"{line}\n" for line in wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
