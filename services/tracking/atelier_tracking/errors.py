"""Errors of the tracking image.

TrackingError
├── SettingsError      environment variables are missing or invalid
│   ├── LoginsError    a line of HTPASSWD is not `user:hash` with a supported hash
│   └── RolesError     a line of ROLES is not `user role`
├── ServerError        nginx or MLflow cannot be started
├── SchemaError        the tables have the revision of another release
└── JobError           a maintenance job failed
"""

from __future__ import annotations


class TrackingError(Exception):
    """Base of all errors. The message states the rule, the value received and the remedy."""


class SettingsError(TrackingError):
    """Environment variables are missing or invalid.

    Attributes:
        problems: one message for each, without secrets.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class LoginsError(SettingsError):
    """A line of HTPASSWD is not `user:hash` with a supported hash."""


class RolesError(SettingsError):
    """A line of ROLES is not `user role`."""


class ServerError(TrackingError):
    """nginx or MLflow cannot be started."""


class SchemaError(TrackingError):
    """The tables have the revision of another release."""


class JobError(TrackingError):
    """A maintenance job failed."""
