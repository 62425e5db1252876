"""Everything that goes wrong on purpose, before or while the two servers run.

TrackingError
├── SettingsError      the environment is not complete or not legal
│   ├── LoginsError    a line of HTPASSWD is not `user:hash` with a hash that is accepted
│   └── RolesError     a line of the roles is not `user role`
├── ServerError        nginx or MLflow cannot be started on this machine
├── SchemaError        the database's tables are those of another release
└── JobError           an operator's command cannot do what it was asked
"""

from __future__ import annotations


class TrackingError(Exception):
    """Root of the tree. Its text is shown to the person who starts the container: rule, value received, what to do."""


class SettingsError(TrackingError):
    """Raised with every problem at once.

    Attributes:
        problems: one sentence each, without any secret.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class LoginsError(SettingsError):
    """Raised when a line of HTPASSWD is not `user:hash` with a hash that is accepted."""


class RolesError(SettingsError):
    """Raised when a line of the roles is not `user role`."""


class ServerError(TrackingError):
    """Raised when nginx or MLflow cannot be started on this machine."""


class SchemaError(TrackingError):
    """Raised when the database's tables are those of another release."""


class JobError(TrackingError):
    """Raised when an operator's command cannot do what it was asked."""
