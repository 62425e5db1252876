"""The folder that a run on one machine lives in: data, MLflow's files, tokens, logs, results."""

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
LEAST_FREE_MIB = 400  # a demo leaves about 100 MiB; MLflow and SQLite need room to work
KEPT_VARIABLES = (
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
    """Paths below one folder; nothing is created before `prepare`."""

    root: Path

    images = property(lambda self: self.root / "images")
    database = property(lambda self: self.root / "mlflow.db")
    artifacts = property(lambda self: self.root / "artifacts")
    decisions = property(lambda self: self.root / "decisions.db")
    cache = property(lambda self: self.root / "cache")
    token_file = property(lambda self: self.root / "tokens.txt")
    secrets_file = property(lambda self: self.root / "secrets.json")
    trained_file = property(lambda self: self.root / "trained.json")
    sheet = property(lambda self: self.root / "contact-sheet.png")

    def log(self, name: str) -> Path:
        """Where a service's output goes."""
        return self.root / "logs" / f"{name}.log"

    def prepare(self) -> None:
        """Makes the folder and, on the first run, two tokens: their hashes in tokens.txt, the tokens in secrets.json.

        Raises:
            EmbeddedError: the folder cannot be written, or its disk is nearly full.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            free_mib = shutil.disk_usage(self.root).free // 2**20
            if free_mib < LEAST_FREE_MIB:
                raise EmbeddedError(
                    f"{self.root} has {free_mib} MiB free and needs {LEAST_FREE_MIB}: make room or name another folder"
                )
            if not (self.secrets_file.exists() and self.token_file.exists()):
                self._make_tokens()
        except OSError as error:
            raise EmbeddedError(f"{self.root} cannot be used: {error}") from error

    def secret(self, role: str) -> str:
        """The token made for a role, reader or promoter."""
        return str(json.loads(self.secrets_file.read_text())[role])

    def trained(self) -> dict[str, Any] | None:
        """What a training left that was not promoted and drawn with yet."""
        return json.loads(self.trained_file.read_text()) if self.trained_file.exists() else None

    def environment(self) -> dict[str, str]:
        """A service's environment: no variable of the caller's shell changes what a run does."""
        kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
        return kept | {
            "PYTHONUNBUFFERED": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "ORT_DISABLE_TELEMETRY": "1",
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(self.cache / "huggingface"),
            "TOKENIZERS_PARALLELISM": "false",
            "TRANSFORMERS_VERBOSITY": "error",
            "GIT_PYTHON_REFRESH": "quiet",
        }

    def _make_tokens(self) -> None:
        made = {role: secrets.token_urlsafe(24) for role in ("reader", "promoter")}
        lines = [f"demo-{role} {role} {hashlib.sha256(secret.encode()).hexdigest()}\n" for role, secret in made.items()]
        for file, text in ((self.token_file, "".join(lines)), (self.secrets_file, json.dumps(made))):
            partial = file.with_suffix(".part")
            partial.touch(mode=0o600)
            partial.write_text(text)
            partial.replace(file)
