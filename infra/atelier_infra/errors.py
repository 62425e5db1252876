"""All errors that end a command. Each message states the rule, the value received and the remedy.

InfraError
├── InputError         invalid flag, answer or file; nothing was changed
├── ToolError          terraform, docker or git is missing or failed
│   └── Interrupted    Ctrl-C while terraform was running
├── AwsError           AWS refused a call or did not respond
├── NotReadyError      the environment is not in the state that the command needs, for example no image was pushed
└── DeploymentError    a new revision never became healthy; the previous one runs again
"""

from __future__ import annotations


class InfraError(Exception):
    """Base of all errors; the command prints the message and exits with code 1."""


class InputError(InfraError):
    """Invalid flag, answer or file; nothing was changed."""


class ToolError(InfraError):
    """terraform, docker or git is missing or failed."""


class Interrupted(ToolError):
    """Ctrl-C while terraform was running; terraform finished what it had begun and wrote its state."""


class AwsError(InfraError):
    """AWS refused a call or did not respond."""


class NotReadyError(InfraError):
    """The environment is not in the state that the command needs."""


class DeploymentError(InfraError):
    """A new revision never became healthy; the previous one runs again."""
