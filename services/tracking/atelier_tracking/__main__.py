"""`python -m atelier_tracking [JOB]`: checks the settings, then runs a maintenance job, or nginx and MLflow."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from atelier_tracking.errors import ServerError, SettingsError
from atelier_tracking.gate.nginx_config import write_files
from atelier_tracking.log import log_event
from atelier_tracking.maintenance import jobs
from atelier_tracking.server.mlflow_env import mlflow_environment
from atelier_tracking.settings import FROM_FILES, NAMES, read_settings

RUN_DIR = Path("/tmp/tracking")  # noqa: S108 (created with mode 0700; read-only containers need a tmpfs at /tmp)
PASSED_TO_MLFLOW = ("AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
"""Settings that MLflow also reads; all others are removed from its environment."""


def create_empty(folder: Path) -> None:
    """Creates a folder with mode 0700, and removes files of an earlier start.

    Raises:
        ServerError: the folder cannot be created or written.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for entry in folder.iterdir():
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        (folder / ".probe").touch()
        (folder / ".probe").unlink()
    except OSError as error:
        raise ServerError(
            f"{folder} must be a folder that user id {os.getuid()} can write: {error}; with a read-only root file system, "
            f"mount a tmpfs at /tmp and a volume at the spool folder"
        ) from error


def main() -> int:
    """Executes the supervisor; returns 2 for invalid settings, 3 if a folder cannot be written, or a job's exit code."""
    job = jobs.parse(sys.argv[1:]) if sys.argv[1:] else None
    try:
        settings = read_settings(os.environ)
    except SettingsError as error:
        sys.stderr.write(f"tracking cannot start:\n{error}\n")
        return 2
    if job is not None:
        return jobs.run(job, settings)
    try:
        create_empty(RUN_DIR)
        create_empty(settings.spool_dir)
        write_files(settings, RUN_DIR)
    except ServerError as error:
        sys.stderr.write(f"tracking cannot start:\n{error}\n")
        return 3
    roles = settings.roles or {}
    log_event(
        "starting",
        users={login.user: roles.get(login.user, "admin") for login in settings.logins},
        registry_user=settings.registry_user,
        public_url=settings.public_url,
        tls=settings.tls_certificate_file is not None,
    )
    own_settings = {name for name in NAMES if name not in PASSED_TO_MLFLOW} | {f"{name}_FILE" for name in FROM_FILES}
    environment = {name: value for name, value in os.environ.items() if name not in own_settings} | mlflow_environment(settings)
    arguments = [str(RUN_DIR), str(settings.spool_dir), str(settings.drain_timeout_s)]
    return os.execve(sys.executable, [sys.executable, "-m", "atelier_tracking.server.supervisor", *arguments], environment)  # noqa: S606


if __name__ == "__main__":
    sys.exit(main())
