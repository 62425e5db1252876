"""Errors that end a command with one line.

EmbeddedError
├── ServiceStopped   a service ended or never became ready; the message names its log
├── StageFailed      a stage of the demo failed
└── RequestRefused   a service answered with a problem document
"""


class EmbeddedError(Exception):
    """Ends the command with one line and exit code 1."""


class ServiceStopped(EmbeddedError): ...


class StageFailed(EmbeddedError): ...


class RequestRefused(EmbeddedError): ...
