"""What a login costs at the tracking server: one answer of MLflow with a login (/health) and without (/healthz), in turn.

    python benchmarks/tracking_login.py http://127.0.0.1:80 ada:PASSWORD bea:PASSWORD

Give one user for each kind of hash that is to be compared. The bound (--max-added-ms) is 1 ms added at the median; the
exit status says whether it held.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import platform
import statistics
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit


def ask(connection: http.client.HTTPConnection, path: str, headers: dict[str, str]) -> float:
    """Milliseconds of one request on an open connection."""
    start = time.perf_counter()
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    answer.read()
    if answer.status != 200:
        raise SystemExit(f"{path} answered {answer.status}: is the login right, and is the server up?")
    return (time.perf_counter() - start) * 1000


def main() -> int:
    """Prints a line per user."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("logins", nargs="+", metavar="user:password")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--max-added-ms", type=float, default=1.0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    place = urlsplit(given.address)
    print(
        f"{platform.machine()}, {platform.platform()}, Python {platform.python_version()}; {given.requests} requests each way"
    )
    print(f"{'user':12} {'first':>8} {'without':>8} {'with':>8} {'added':>8} {'ratio':>6} {'of bound':>9}   (ms at the median)")
    rows: list[dict[str, float | str]] = []
    for login in given.logins:
        connection = http.client.HTTPConnection(place.hostname or "", place.port or 80, timeout=60)
        headers = {"Authorization": "Basic " + base64.b64encode(login.encode()).decode()}
        first = ask(connection, "/health", headers)
        without, with_login = [], []
        for _ in range(given.requests):
            without.append(ask(connection, "/healthz", {}))
            with_login.append(ask(connection, "/health", headers))
        low, high = statistics.median(without), statistics.median(with_login)
        added = high - low
        rows.append({"user": login.partition(":")[0], "first_ms": first, "without_ms": low, "with_ms": high, "added_ms": added})
        user = login.partition(":")[0]
        print(f"{user:12} {first:8.2f} {low:8.2f} {high:8.2f} {added:8.3f} {high / low:6.2f} {added / given.max_added_ms:9.0%}")
    if given.json:
        # the command is written without its logins
        about = {"machine": platform.platform(), "python": platform.python_version(), "requests": given.requests}
        given.json.write_text(
            json.dumps(about | {"command": f"tracking_login.py {given.address}", "rows": rows}, indent=2) + "\n"
        )
    return 0 if all(float(row["added_ms"]) < given.max_added_ms for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
