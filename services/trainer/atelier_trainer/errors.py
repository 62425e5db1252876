"""What the trainer refuses, and why.

TrainerError
├── OptionError      a flag or a combination of flags makes no sense; nothing was started
├── DataError        the data set cannot be read or lacks something; nothing was started
├── BaseModelError   the base model cannot be found or is not a Stable Diffusion pipeline
├── ExportError      a graph could not be written, or does not compute what the model computes
└── TrackingError    MLflow did not answer, or refused
"""


class TrainerError(Exception):
    """Ends a command with one line and exit code 2."""


class OptionError(TrainerError):
    """A flag or a combination of flags makes no sense."""


class DataError(TrainerError):
    """The data set cannot be read or lacks something."""


class BaseModelError(TrainerError):
    """The base model cannot be found, or is not a Stable Diffusion pipeline."""


class ExportError(TrainerError):
    """A graph could not be written, or does not compute what the model computes."""


class TrackingError(TrainerError):
    """MLflow did not answer, or refused."""
