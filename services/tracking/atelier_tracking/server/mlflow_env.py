"""MLflow's environment: database URL, bucket and options; never passed as arguments, which every process can see."""

from __future__ import annotations

from urllib.parse import quote, urlencode

from atelier_tracking.gate.sources import PATTERN
from atelier_tracking.settings import Settings

OPTIONS = {
    # job execution starts more processes and runs code that users send
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # nginx, the only client, sends this Host and has checked Origin
    "MLFLOW_SERVER_ALLOWED_HOSTS": "tracking",
    # replaces connections before a database or firewall drops them
    "MLFLOW_SQLALCHEMYSTORE_POOL_RECYCLE": "600",
    "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": "5",
    "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW": "15",
    # a version's source must be canonical, so that the gate can compare it
    "MLFLOW_CREATE_MODEL_VERSION_SOURCE_VALIDATION_REGEX": PATTERN,
    "GIT_PYTHON_REFRESH": "quiet",
    # otherwise each thread that handles large bodies has its own heap
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_TRIM_THRESHOLD_": "131072",
    "PYTHONUNBUFFERED": "1",
}

CONNECT_TIMEOUT_S = 5
REGISTRY_USER = "TRACKING_REGISTRY_USER"
"""Environment variable that passes REGISTRY_USER to MLflow's process."""

DRIVER = "postgresql+psycopg2"
"""Explicit, because the default driver differs in SQLAlchemy 2.1."""


def database_uri(settings: Settings) -> str:
    """SQLAlchemy's URL of the database; user and password are percent-encoded and may contain any character."""
    login = f"{quote(settings.db_user, safe='')}:{quote(settings.db_pw.get_secret_value(), safe='')}"
    query = {"sslmode": settings.db_tls_mode, "connect_timeout": str(CONNECT_TIMEOUT_S)}
    if settings.db_tls_ca_file is not None:
        query["sslrootcert"] = str(settings.db_tls_ca_file)
    location = f"{settings.db_endpoint}:{settings.db_port}/{quote(settings.db_name, safe='')}"
    return f"{DRIVER}://{login}@{location}?{urlencode(query)}"


def mlflow_environment(settings: Settings) -> dict[str, str]:
    """Environment variables of MLflow's process, in addition to those of the container."""
    environment = OPTIONS | {
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
