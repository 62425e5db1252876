"""What MLflow reads: the database's address, the bucket and its own switches: as variables, never as arguments."""

from __future__ import annotations

from urllib.parse import quote, urlencode

from atelier_tracking.gate.sources import PATTERN
from atelier_tracking.settings import Settings

SWITCHES = {
    # job execution starts several more processes, and would run what users send
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # nginx is the only client and has compared Origin with Host; it presents this name
    "MLFLOW_SERVER_ALLOWED_HOSTS": "tracking",
    # connections that the database or a firewall has dropped are noticed before they are used
    "MLFLOW_SQLALCHEMYSTORE_POOL_RECYCLE": "600",
    "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": "5",
    "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW": "15",
    # a version's source has one spelling, which the gate can compare
    "MLFLOW_CREATE_MODEL_VERSION_SOURCE_VALIDATION_REGEX": PATTERN,
    "GIT_PYTHON_REFRESH": "quiet",
    # each thread that handles large bodies gets a heap of its own otherwise
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_TRIM_THRESHOLD_": "131072",
    "PYTHONUNBUFFERED": "1",
}

CONNECT_TIMEOUT_S = 5
REGISTRY_USER = "TRACKING_REGISTRY_USER"
"""Tells MLflow's process whom reserved tags are for."""

DRIVER = "postgresql+psycopg2"
"""Named, since SQLAlchemy 2.1 takes another driver by default."""


def database_uri(settings: Settings) -> str:
    """SQLAlchemy's address of the database; every character of the password is legal because all are percent-encoded."""
    login = f"{quote(settings.db_user, safe='')}:{quote(settings.db_pw.get_secret_value(), safe='')}"
    query = {"sslmode": settings.db_tls_mode, "connect_timeout": str(CONNECT_TIMEOUT_S)}
    if settings.db_tls_ca_file is not None:
        query["sslrootcert"] = str(settings.db_tls_ca_file)
    place = f"{settings.db_endpoint}:{settings.db_port}/{quote(settings.db_name, safe='')}"
    return f"{DRIVER}://{login}@{place}?{urlencode(query)}"


def mlflow_environment(settings: Settings) -> dict[str, str]:
    """Everything that MLflow's process is told.

    Args:
        settings: see there.

    Returns:
        Variables that are set over those of the container.
    """
    environment = SWITCHES | {
        "MLFLOW_BACKEND_STORE_URI": database_uri(settings),
        "MLFLOW_ARTIFACTS_DESTINATION": f"s3://{settings.aws_bucket_name}",
        "AWS_DEFAULT_REGION": settings.aws_region,
        "AWS_REGION": settings.aws_region,
        "TMPDIR": str(settings.spool_dir),
        "HOME": str(settings.spool_dir),
    }
    if settings.aws_access_key_id is not None and settings.aws_secret_access_key is not None:
        environment["AWS_ACCESS_KEY_ID"] = settings.aws_access_key_id.get_secret_value()
        environment["AWS_SECRET_ACCESS_KEY"] = settings.aws_secret_access_key.get_secret_value()
    if settings.registry_user is not None:
        environment[REGISTRY_USER] = settings.registry_user
    if settings.mlflow_crypto_kek_passphrase is not None:
        environment["MLFLOW_CRYPTO_KEK_PASSPHRASE"] = settings.mlflow_crypto_kek_passphrase.get_secret_value()
    if endpoint := settings.s3_public_endpoint_url or settings.s3_endpoint_url:
        environment["MLFLOW_S3_ENDPOINT_URL"] = endpoint
    return environment
