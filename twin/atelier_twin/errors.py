"""Errors of the twin's jobs.

TwinError
├── SecretsError         secrets cannot be read or written
├── PortsTaken           a port of this machine cannot be opened
├── BackupError          a backup cannot be created, is damaged, or would overwrite data
└── FirstVersionError    a setting is invalid, or the trainer failed
    └── RequestError     registry-api returned an error or did not respond
"""


class TwinError(Exception):
    """Base of all errors; the job prints the message and exits with code 1."""


class SecretsError(TwinError):
    """Secrets cannot be read or written."""


class PortsTaken(TwinError):
    """A port of this machine cannot be opened."""


class BackupError(TwinError):
    """A backup cannot be created, is damaged, or would overwrite data."""


class FirstVersionError(TwinError):
    """A setting is invalid, or the trainer failed."""


class RequestError(FirstVersionError):
    """registry-api returned an error or did not respond."""
