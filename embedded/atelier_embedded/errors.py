"""How a run on one machine can end early.

EmbeddedError
├── ServiceStopped   a service ended or never became ready; the message names its log
├── StageFailed      a command of the loop exited with an error; the message holds its last line
└── RequestRefused   a service answered with a problem document
"""


class EmbeddedError(Exception):
    """Ends the command with one line and exit code 1."""


class ServiceStopped(EmbeddedError):
    """A service ended or never became ready."""


class StageFailed(EmbeddedError):
    """A command of the loop exited with an error."""


class RequestRefused(EmbeddedError):
    """A service answered with a problem document."""
