"""`python -m atelier_tracking migrate|gc`: commands for an operator, in a container of their own beside the one that serves."""

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
    text = "bring the database's tables to this image's MLflow; make a backup first, since nothing takes it back"
    jobs.add_parser("migrate", help=text, description=text)
    text = "remove for good what was deleted in MLflow and no registered version needs; says what, and removes it with --yes"
    gc = jobs.add_parser("gc", help=text, description=text)
    gc.add_argument("--yes", action="store_true", help="remove it")
    gc.add_argument(
        "--older-than-days", type=float, default=30.0, metavar="N", help="deleted at least so long ago (default: %(default)g)"
    )
    return parser.parse_args(arguments)


def run(parsed: argparse.Namespace, settings: Settings) -> int:
    """Runs one job and returns its exit code: 0 done, 1 failed.

    Args:
        parsed: see `parse`.
        settings: those of the service.
    """
    # the spool of the container that serves is not this job's
    os.environ |= mlflow_environment(settings) | dict.fromkeys(("TMPDIR", "HOME"), tempfile.gettempdir())
    try:
        if parsed.job == "migrate":
            _migrate(database_uri(settings))
        else:
            from atelier_tracking.maintenance.garbage_collection import collect

            collect(
                database_uri(settings),
                f"s3://{settings.aws_bucket_name}",
                older_than_days=parsed.older_than_days,
                remove=parsed.yes,
                say=_say,
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
        raise JobError(f"the database could not be migrated; it is as it was: {' '.join(str(error.orig).split())}") from error
    _say(f"the database is at revision {after} already" if before == after else f"migrated from revision {before} to {after}")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
