"""The folder of a demo: data, databases, artifacts, tokens, logs, results."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atelier_embedded.errors import EmbeddedError

MODEL = "sketch"
MIN_FREE_MIB = 400  # a demo leaves about 100 MiB; MLflow and SQLite need room to work
INHERITED_VARIABLES = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "GOMP_SPINCOUNT",
    "SSL_CERT_FILE",
    "VIRTUAL_ENV",
    "TERM",
    "COLUMNS",
)


@dataclass(frozen=True)
class Workspace:
    """Paths in one folder; nothing is created before `prepare`."""

    root: Path

    images = property(lambda self: self.root / "images")
    database = property(lambda self: self.root / "mlflow.db")
    artifacts = property(lambda self: self.root / "artifacts")
    decisions = property(lambda self: self.root / "decisions.db")
    cache = property(lambda self: self.root / "cache")
    token_file = property(lambda self: self.root / "tokens.txt")
    secrets_file = property(lambda self: self.root / "secrets.json")
    result_file = property(lambda self: self.root / "trained.json")
    sheet = property(lambda self: self.root / "contact-sheet.png")

    def log(self, name: str) -> Path:
        """Output of a service."""
        return self.root / "logs" / f"{name}.log"

    def prepare(self) -> None:
        """Creates the folder and, on the first run, two tokens: hashes in tokens.txt, the tokens in secrets.json.

        Raises:
            EmbeddedError: the folder cannot be written, or its disk is nearly full.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            free_mib = shutil.disk_usage(self.root).free // 2**20
            if free_mib < MIN_FREE_MIB:
                raise EmbeddedError(
                    f"{self.root} has {free_mib} MiB free and needs {MIN_FREE_MIB}: free some space or choose another folder"
                )
            if not (self.secrets_file.exists() and self.token_file.exists()):
                self._create_tokens()
        except OSError as error:
            raise EmbeddedError(f"{self.root} cannot be used: {error}") from error

    def secret(self, role: str) -> str:
        """The token of a role, reader or promoter."""
        return str(json.loads(self.secrets_file.read_text())[role])

    def training_result(self) -> dict[str, Any] | None:
        """The result of a training whose demo was interrupted before its end."""
        return json.loads(self.result_file.read_text()) if self.result_file.exists() else None

    def environment(self) -> dict[str, str]:
        """A service's environment: no other variable of the caller's shell has an effect."""
        inherited = {name: os.environ[name] for name in INHERITED_VARIABLES if name in os.environ}
        return inherited | {
            "PYTHONUNBUFFERED": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "ORT_DISABLE_TELEMETRY": "1",
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(self.cache / "huggingface"),
            "TOKENIZERS_PARALLELISM": "false",
            "TRANSFORMERS_VERBOSITY": "error",
            "GIT_PYTHON_REFRESH": "quiet",
        }

    def _create_tokens(self) -> None:
        tokens = {role: secrets.token_urlsafe(24) for role in ("reader", "promoter")}
        lines = [f"demo-{role} {role} {hashlib.sha256(secret.encode()).hexdigest()}\n" for role, secret in tokens.items()]
        for file, text in ((self.token_file, "".join(lines)), (self.secrets_file, json.dumps(tokens))):
            partial = file.with_suffix(".part")
            partial.touch(mode=0o600)
            partial.write_text(text)
            partial.replace(file)
