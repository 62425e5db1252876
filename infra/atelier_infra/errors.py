"""Everything that can end a command, as one tree; each message says the rule, what was found and what to do.

InfraError
├── AnswerError        a flag, an answer or a file makes no sense; nothing was changed
├── ToolError          terraform, docker or git is missing, or failed
│   └── Interrupted    Ctrl-C while terraform was at work
├── AwsError           AWS refused, or did not answer
├── NotReadyError      the environment is not where the command needs it, for example nothing was pushed yet
└── RolloutError       a new revision never became healthy; the one before runs again
"""

from __future__ import annotations


class InfraError(Exception):
    """Ends a command with its message and exit code 1."""


class AnswerError(InfraError):
    """A flag, an answer or a file makes no sense; nothing was changed."""


class ToolError(InfraError):
    """A program that the command runs is missing, or failed."""


class Interrupted(ToolError):
    """Ctrl-C while terraform was at work; it ended in order and kept its state."""


class AwsError(InfraError):
    """AWS refused, or did not answer."""


class NotReadyError(InfraError):
    """The environment is not where the command needs it."""


class DeploymentError(InfraError):
    """A new revision never became healthy."""
