"""Everything that goes wrong on purpose. `problems.py` maps the leaves to HTTP in one table.

InferError
├── CallerError              the sender of the request can mend it
│   ├── LoginError           no token, or one that the token file does not know
│   ├── RoleError            the token's role may not do this
│   ├── BodySizeError        a body larger than any legal request
│   ├── BodyTimeoutError     a body that did not arrive in time
│   ├── ImageSizeError     width or height breaks a rule of the bundle or of the settings, or needs too much memory
│   ├── StepsError           more steps than the base was trained with
│   ├── BlendError           the adapters of a blend do not share a base
│   ├── FormatError          no image can be given in the form that was asked for
│   ├── ImageError         what was sent is no image of this service
│   ├── ChangedError         what an image was drawn with is something else now
│   ├── NoImageError       a version has no validation image
│   ├── CallbackError        a callback_url is no address that callbacks may go to
│   ├── UnknownJobError      no such job, or no longer
│   ├── ReusedKeyError       an idempotency key came with another request
│   ├── UnknownModelError    a model was named that this service does not serve
│   ├── UnknownVersionError  no such version of the served model
│   ├── UnknownAliasError    no such alias of the served model
│   └── NoChampionError      nothing was promoted yet
├── BusyError                the same request may succeed later
│   ├── QueueFullError       as many requests wait as may wait
│   ├── UploadsFullError     as many bytes of bodies are under way as may be
│   ├── StagingError         the version asked for is being loaded
│   ├── MemoryFullError      there is no memory now for an adapter, a base or a step
│   ├── CancelledJobError    the request was cancelled
│   └── DrainingError        the service is shutting down
├── RefusedError             a version must not be served
│   ├── NotAnAdapterError    the version is tagged as something else
│   ├── AdapterError         its manifest or weights do not fit its bundle, or are not finite
│   ├── SourceError          its files are not kept by the tracking server
│   ├── ChangedFilesError    its files are not those that registry-api decided on
│   ├── NotPromotedError     an alias points at it, and registry-api decided nothing about it
│   ├── BundleMismatchError  one bundle was named, another was found
│   ├── BundleMissingError   no bundle with that digest is registered
│   ├── BundleError          a bundle's files are not what the contract says
│   ├── SteppedBackError     it drew nothing or infinity, so the version before it serves again
│   └── CorruptError         a file's sha256 differs from its manifest
├── DrawingError             the graphs failed
│   ├── NonFiniteError       NaN or infinity in latents or image
│   └── GraphError           ONNX Runtime raised
├── ProviderError            ONNX Runtime cannot run graphs as the settings say
├── CacheError               the cache folder cannot be read or written
└── TrackingError            the tracking server does not answer as MLflow does
"""

from __future__ import annotations


class InferError(Exception):
    """Root of the tree. Its text is shown to the sender of the request: rule, value received, what to do."""


class CallerError(InferError):
    """The sender of the request can mend it."""


class LoginError(CallerError):
    """Raised when a request carries no token, or one that the token file does not know."""


class RoleError(CallerError):
    """Raised when a token's role may not do what was asked."""


class BodySizeError(CallerError):
    """Raised when a body is larger than any legal request."""


class BodyTimeoutError(CallerError):
    """Raised when a body did not arrive in time."""


class ImageSizeError(CallerError):
    """Raised when width or height breaks a rule of the bundle or of the settings, or needs more memory than there is."""


class StepsError(CallerError):
    """Raised when more steps are asked for than the base was trained with."""


class BlendError(CallerError):
    """Raised when the adapters of a blend do not share a base."""


class FormatError(CallerError):
    """Raised when no image can be given in the form that was asked for."""


class ImageError(CallerError):
    """Raised when what was sent is no image of this service."""


class ChangedError(CallerError):
    """Raised when the version that an image names is not what the image was drawn with."""


class NoImageError(CallerError):
    """Raised when a version was trained without validation images."""


class CallbackError(CallerError):
    """Raised when a callback_url is no address of a host that callbacks may go to."""


class UnknownJobError(CallerError):
    """Raised when there is no such job of this token, or no longer."""


class ReusedKeyError(CallerError):
    """Raised when an idempotency key comes again with another request."""


class UnknownModelError(CallerError):
    """Raised when a model is named that this service does not serve."""


class UnknownVersionError(CallerError):
    """Raised when the served model has no such version."""


class UnknownAliasError(CallerError):
    """Raised when the served model has no such alias."""


class NoChampionError(CallerError):
    """Raised when a request names no version and nothing was promoted yet."""


class BusyError(InferError):
    """The same request may succeed later.

    Attributes:
        retry_after_s: when to try again, at least 1 s.
    """

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = max(1, retry_after_s)


class QueueFullError(BusyError):
    """Raised when as many requests wait as may wait."""


class UploadsFullError(BusyError):
    """Raised when the bodies of requests under way have all the memory that bodies may have."""


class StagingError(BusyError):
    """Raised when the version asked for is being loaded for the first time."""


class MemoryFullError(BusyError):
    """Raised when there is no memory now for an adapter, a second base or a step."""


class CancelledJobError(BusyError):
    """Raised when a request was cancelled while another one waited for the same images."""


class DrainingError(BusyError):
    """Raised when the service is shutting down."""


class RefusedError(InferError):
    """A version must not be served."""


class NotAnAdapterError(RefusedError):
    """Raised when a version is not tagged as an adapter."""


class AdapterError(RefusedError):
    """Raised when an adapter's manifest or weights do not fit its bundle, or hold NaN or infinity."""


class SourceError(RefusedError):
    """Its files are not kept by the tracking server, or their address is not in its one canonical spelling."""


class ChangedFilesError(RefusedError):
    """Its files are not those that registry-api decided on: somebody changed them since."""


class NotPromotedError(RefusedError):
    """An alias points at it, and no decision of registry-api says which files it has."""


class BundleMismatchError(RefusedError):
    """Raised when one bundle was named and another was found; the text holds both digests."""

    def __init__(self, *, asked: str, found: str, where: str) -> None:
        super().__init__(
            f"{where}: made for bundle {asked}, found bundle {found}; export and register the adapter for one bundle"
        )


class BundleMissingError(RefusedError):
    """Raised when no registered model version is tagged with the bundle's digest."""


class BundleError(RefusedError):
    """Raised when a bundle's files, graphs or configuration are not what the contract says."""


class CorruptError(RefusedError):
    """Raised when a file's sha256 differs from the one in its manifest."""


class RevertedError(RefusedError):
    """Raised for a version that drew blank or non-finite images, until its alias names another one."""


class DrawingError(InferError):
    """The graphs failed."""


class NonFiniteError(DrawingError):
    """Raised when latents or image hold NaN or infinity."""


class GraphError(DrawingError):
    """Raised when ONNX Runtime raised while a graph ran."""


class ProviderError(InferError):
    """Raised when this build of ONNX Runtime lacks the provider of the settings, or falls back to another one."""


class CacheError(InferError):
    """Raised when the cache folder cannot be read or written."""


class TrackingError(InferError):
    """Raised when the tracking server cannot be reached, refuses the login or answers nonsense."""
