"""What the trainer refuses, and why.

TrainerError
├── OptionError      a flag or a combination of flags makes no sense; nothing was started
├── DataError        the data set cannot be read or lacks something; nothing was started
├── BaseModelError   the base model cannot be found or is not a Stable Diffusion pipeline
├── ExportError      a graph could not be written, or does not compute what the model computes
├── TrackingError    MLflow did not answer, or refused
├── CheckpointError  a checkpoint is damaged, or belongs to other settings
├── JournalError     what a run's journal says of itself is damaged
├── NotFinite        the loss became NaN or infinite
├── SearchError      a search cannot start, or none of its trials ended well
└── Stopped          SIGTERM came; a checkpoint was written first
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


class CheckpointError(TrainerError):
    """A checkpoint is damaged, or belongs to other settings."""


class JournalError(TrainerError):
    """How much of a run's journal MLflow has cannot be read."""


class NotFinite(TrainerError):
    """The loss became NaN or infinite."""


class SearchError(TrainerError):
    """A search cannot start, or none of its trials ended well."""


class Stopped(TrainerError):
    """SIGTERM came; a checkpoint was written first."""
