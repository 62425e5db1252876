"""`python -m atelier_twin JOB`: what compose.yaml runs once and lets end."""

from __future__ import annotations

import argparse
import os
import sys

from atelier_twin import first_version, ports, summary, volume_layout
from atelier_twin.backups import backup, restore
from atelier_twin.errors import TwinError
from atelier_twin.secrets import read_or_make
from atelier_twin.volume_layout import Places, lay_out


def main(arguments: list[str] | None = None) -> int:
    """Runs one job and returns its exit code: 0 done, 1 failed."""
    parser = argparse.ArgumentParser(prog="python -m atelier_twin", description=__doc__)
    parser.add_argument("job", choices=("secrets", "login", "summary", "rotate", "ports", "first-version", "backup", "restore"))
    parser.add_argument("names", nargs="*", help="ports: services of this twin that run already; restore: the backup")
    parser.add_argument(
        "--replace", action="store_true", help="restore: also into a twin that is not empty, whose data is lost"
    )
    parsed = parser.parse_args(arguments)
    job = parsed.job
    say = sys.stdout.write
    try:
        if job == "first-version":
            first_version.run(first_version.Plan.read(os.environ), say)
            return 0
        if job == "ports":
            ports.check(ports.wanted(os.environ, parsed.names))
            return 0
        places = Places()
        made, fresh = read_or_make(places.secrets / "secrets.json", os.environ)
        if job == "backup":
            backup.make(made, os.environ, backup.Folders(), say)
            return 0
        if job == "restore":
            name = parsed.names[0] if len(parsed.names) == 1 else None
            restore.restore(name, made, os.environ, backup.Folders(), say, replace=parsed.replace)
            return 0
        if job == "rotate":
            volume_layout.rotate(made, places)
            say(f"new logins and tokens; the old ones end with: {volume_layout.RESTART}\n")
        elif job == "secrets":
            lay_out(made, places)
            say(f"{'made fresh secrets' if fresh else 'the secrets of the first start are in place'}; {summary.HOW}\n")
        else:
            addresses = summary.Addresses.read(os.environ)
            say(summary.full(made, addresses) if job == "login" else summary.summary(addresses))
    except TwinError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
