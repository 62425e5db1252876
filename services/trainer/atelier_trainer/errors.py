"""Errors that end a command with one line.

TrainerError
├── OptionError      a flag or a combination of flags is invalid; nothing was started
├── DataError        the data set cannot be read or is incomplete; nothing was started
├── AdapterFileError an adapter's file is damaged, does not fit the base model, or cannot be expressed as LoRA
├── PreviewError     a picture cannot be the preview of a version
├── BaseModelError   the base model cannot be located or is not a Stable Diffusion pipeline
├── HubError         the Hugging Face hub does not have a file, or did not answer
├── ExportError      a graph could not be written, or does not compute what the model computes
├── TrackingError    MLflow did not answer, or refused
├── CheckpointError  a checkpoint is damaged, or belongs to other settings
├── JournalError     the upload offset of a run's journal cannot be read
├── NotFinite        the loss became NaN or infinite
├── SearchError      a search cannot start, or no trial succeeded
└── Stopped          SIGTERM was received; a checkpoint was saved first
"""


class TrainerError(Exception):
    """Ends a command with one line and exit code 2."""


class OptionError(TrainerError): ...


class DataError(TrainerError): ...


class AdapterFileError(TrainerError): ...


class PreviewError(TrainerError): ...


class BaseModelError(TrainerError): ...


class HubError(TrainerError): ...


class ExportError(TrainerError): ...


class TrackingError(TrainerError): ...


class CheckpointError(TrainerError): ...


class JournalError(TrainerError): ...


class NotFinite(TrainerError): ...


class SearchError(TrainerError): ...


class Stopped(TrainerError):
    """Exit code 143 instead of 2."""


def first_line(error: Exception, limit: int = 300) -> str:
    """The first line of another library's message; its type where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0][:limit] if lines else type(error).__name__
