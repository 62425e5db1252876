"""How a job of the twin can end early.

TwinError
├── SecretsError      the secrets cannot be read or written
├── PortsTaken        a port of this machine cannot be opened
├── BackupError       a backup cannot be made, is damaged, or would overwrite something
├── StepFailed        a command of the trainer ended with an error
└── RequestRefused    a service answered with an error, or not at all
"""


class TwinError(Exception):
    """Ends the job with one line and exit code 1."""


class SecretsError(TwinError):
    """The secrets cannot be read or written."""


class PortsTaken(TwinError):
    """A port of this machine cannot be opened."""


class BackupError(TwinError):
    """A backup cannot be made, is damaged, or would overwrite something."""


class StepFailed(TwinError):
    """A command of the trainer ended with an error."""


class RequestRefused(TwinError):
    """A service answered with an error, or not at all."""
