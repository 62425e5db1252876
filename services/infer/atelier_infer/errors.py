"""Errors raised on purpose. `problems.py` maps the leaves to HTTP in one table.

InferError
├── RequestError                 the request must be changed
│   ├── RoleError                the token's role does not allow this
│   ├── BodySizeError            the body is larger than any valid request
│   ├── BodyTimeoutError         the body did not arrive in time
│   ├── ImageSizeError           width or height breaks a rule of the bundle or of the settings, or can never fit the memory
│   ├── StepsError               more steps than the base model was trained with
│   ├── BlendError               the adapters of a blend have different base models
│   ├── NotAcceptableError       the Accept header allows none of the available media types
│   ├── InvalidImageError        the uploaded file is not an image made by this service
│   ├── VersionChangedError      the version named in an image has other files than the image was made with
│   ├── NoValidationImageError   the version has no validation image
│   ├── NoPreviewError           the version has no preview, or is not in memory
│   ├── WebhookUrlError          webhook_url is not a URL on an allowed host
│   ├── UnknownJobError          no such job of this token, or no longer
│   ├── IdempotencyConflictError an idempotency key was used with another request
│   ├── UnknownModelError        the named model is not served here
│   ├── UnknownVersionError      the served model has no such version
│   ├── UnknownAliasError        the served model has no such alias
│   └── NoChampionError          no version was promoted yet
├── BusyError                    the same request may succeed later
│   ├── QueueFullError           too many images are queued
│   ├── UploadLimitError         request bodies use all the memory they may use
│   ├── VersionLoadingError      the version is being loaded for the first time
│   ├── OutOfMemoryError         there is no memory now for an adapter, a base model or a step
│   ├── CancelledJobError        the job was cancelled while another request waited for the same images
│   └── DrainingError            the service is shutting down
├── RefusedError                 a version must not be served
│   ├── NotAnAdapterError        the version is not tagged as an adapter
│   ├── AdapterError             its manifest or weights do not fit its bundle, or are not finite
│   ├── ArtifactSourceError      its files are not stored by the tracking server, or its address is not canonical
│   ├── DigestMismatchError      its files are not those that registry-api decided on
│   ├── NotPromotedError         an alias names it, but registry-api never decided on it
│   ├── BundleMismatchError      it was made for another bundle
│   ├── BundleMissingError       no bundle with its digest is registered
│   ├── BundleError              a bundle's files, graphs or configuration break the contract
│   ├── RevertedError            its images were blank or not finite, so the previous version serves again
│   └── CorruptFileError         the sha256 of a file differs from its manifest
├── GenerationError              running the graphs failed
│   ├── NonFiniteError           NaN or infinity in latents or image
│   └── GraphError               ONNX Runtime failed
├── ProviderError                ONNX Runtime cannot use the configured provider
├── CacheError                   the cache folder cannot be read or written
└── TrackingError                the tracking server is unreachable, refuses the credentials, or answers unexpectedly
"""

from __future__ import annotations


class InferError(Exception):
    """The message is shown to the client: rule, value received, remedy."""


class RequestError(InferError): ...


class RoleError(RequestError): ...


class BodySizeError(RequestError): ...


class BodyTimeoutError(RequestError): ...


class ImageSizeError(RequestError): ...


class StepsError(RequestError): ...


class BlendError(RequestError): ...


class NotAcceptableError(RequestError): ...


class InvalidImageError(RequestError): ...


class VersionChangedError(RequestError): ...


class NoValidationImageError(RequestError): ...


class NoPreviewError(RequestError): ...


class WebhookUrlError(RequestError): ...


class UnknownJobError(RequestError): ...


class IdempotencyConflictError(RequestError): ...


class UnknownModelError(RequestError): ...


class UnknownVersionError(RequestError): ...


class UnknownAliasError(RequestError): ...


class NoChampionError(RequestError): ...


class BusyError(InferError):
    """Sent with a Retry-After header.

    Attributes:
        retry_after_s: when to send the request again, at least 1 s.
    """

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = max(1, retry_after_s)


class QueueFullError(BusyError): ...


class UploadLimitError(BusyError): ...


class VersionLoadingError(BusyError): ...


class OutOfMemoryError(BusyError): ...


class CancelledJobError(BusyError): ...


class DrainingError(BusyError): ...


class RefusedError(InferError): ...


class NotAnAdapterError(RefusedError): ...


class AdapterError(RefusedError): ...


class ArtifactSourceError(RefusedError): ...


class DigestMismatchError(RefusedError): ...


class NotPromotedError(RefusedError): ...


class BundleMismatchError(RefusedError):
    def __init__(self, where: str, *, expected: str, received: str) -> None:
        super().__init__(
            f"{where}: made for bundle {expected}, found bundle {received}; export and register the adapter for one bundle"
        )


class BundleMissingError(RefusedError): ...


class BundleError(RefusedError): ...


class RevertedError(RefusedError): ...


class CorruptFileError(RefusedError): ...


class GenerationError(InferError): ...


class NonFiniteError(GenerationError): ...


class GraphError(GenerationError): ...


class ProviderError(InferError): ...


class CacheError(InferError): ...


class TrackingError(InferError): ...
