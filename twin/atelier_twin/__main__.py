"""`python -m atelier_twin JOB`: the one-off jobs of compose.yaml."""

from __future__ import annotations

import argparse
import os
import sys

from atelier_twin import first_version, ports, summary, volume_layout
from atelier_twin.backups import backup, restore
from atelier_twin.errors import TwinError
from atelier_twin.secrets import read_or_generate
from atelier_twin.volume_layout import VolumePaths, populate


def main(arguments: list[str] | None = None) -> int:
    """Runs one job and returns its exit code: 0 success, 1 failure."""
    parser = argparse.ArgumentParser(prog="python -m atelier_twin", description=__doc__)
    parser.add_argument("job", choices=("secrets", "login", "summary", "rotate", "ports", "first-version", "backup", "restore"))
    parser.add_argument("names", nargs="*", help="ports: services of this twin that are running; restore: name of the backup")
    parser.add_argument("--replace", action="store_true", help="restore: replace the data of a twin that is not empty")
    options = parser.parse_args(arguments)
    job = options.job
    write = sys.stdout.write
    try:
        if job == "first-version":
            first_version.run(first_version.Settings.read(os.environ), write)
            return 0
        if job == "ports":
            ports.check(ports.required(os.environ, options.names))
            return 0
        paths = VolumePaths()
        secrets, generated = read_or_generate(paths.secrets / "secrets.json", os.environ)
        if job == "backup":
            backup.create(secrets, os.environ, backup.BackupPaths(), write)
            return 0
        if job == "restore":
            name = options.names[0] if len(options.names) == 1 else None
            restore.Restore(secrets, os.environ, backup.BackupPaths(), write).run(name, replace=options.replace)
            return 0
        if job == "rotate":
            volume_layout.rotate(secrets, paths)
            write(f"new logins and tokens; the old ones end with: {volume_layout.RESTART_COMMAND}\n")
        elif job == "secrets":
            populate(secrets, paths)
            write(f"{'generated new secrets' if generated else 'kept the existing secrets'}; {summary.LOGIN_HINT}\n")
        else:
            addresses = summary.Addresses.read(os.environ)
            write(summary.credentials(secrets, addresses) if job == "login" else summary.summary(addresses))
    except TwinError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
