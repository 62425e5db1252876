"""`python -m atelier_tracking migrate|gc`: maintenance jobs, run in their own container."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile

from atelier_tracking.errors import JobError, SchemaError
from atelier_tracking.server.mlflow_env import database_uri, mlflow_environment
from atelier_tracking.settings import Settings


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m atelier_tracking", description=__doc__)
    jobs = parser.add_subparsers(dest="job", required=True, metavar="JOB")
    text = "migrate the database's tables to this image's MLflow; create a backup first, as this cannot be undone"
    jobs.add_parser("migrate", help=text, description=text)
    text = "permanently remove what was deleted in MLflow and no registered version needs; without --yes only list it"
    gc = jobs.add_parser("gc", help=text, description=text)
    gc.add_argument("--yes", action="store_true", help="remove it")
    gc.add_argument(
        "--older-than-days", type=float, default=30.0, metavar="N", help="minimum days since deletion (default: %(default)g)"
    )
    return parser.parse_args(arguments)


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Runs one job and returns its exit code: 0 success, 1 failure."""
    # jobs do not use the spool of the serving container
    os.environ |= mlflow_environment(settings) | dict.fromkeys(("TMPDIR", "HOME"), tempfile.gettempdir())
    try:
        if options.job == "migrate":
            _migrate(database_uri(settings))
        else:
            from atelier_tracking.maintenance.garbage_collection import collect_garbage

            collect_garbage(
                database_uri(settings),
                f"s3://{settings.aws_bucket_name}",
                older_than_days=options.older_than_days,
                remove=options.yes,
                write=_write_line,
            )
    except (SchemaError, JobError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _migrate(uri: str) -> None:
    from sqlalchemy.exc import OperationalError

    from atelier_tracking.server.schema import open_schema

    try:
        before, after = open_schema(uri).migrate()
    except OperationalError as error:
        raise JobError(f"the migration failed, and the database is unchanged: {' '.join(str(error.orig).split())}") from error
    _write_line(
        f"the database is already at revision {after}" if before == after else f"migrated from revision {before} to {after}"
    )


def _write_line(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
