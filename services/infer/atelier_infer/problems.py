"""The one place where an error of this service becomes a problem type."""

from __future__ import annotations

from collections.abc import Mapping

from atelier_service import problems
from atelier_service.auth import ROLE_TOO_LOW
from atelier_service.problems import BODY_TOO_LARGE, INTERNAL_ERROR, ProblemTable, ProblemType

from atelier_infer import errors

TRACKING_RETRY_AFTER_S = 5

TYPES: dict[type[errors.InferError], ProblemType] = {
    errors.RoleError: ROLE_TOO_LOW,
    errors.BodySizeError: BODY_TOO_LARGE,
    errors.BodyTimeoutError: ProblemType("body-timeout", 408, "The body did not arrive in time."),
    errors.ImageSizeError: ProblemType("invalid-image-size", 422, "Width or height breaks a rule, or needs too much memory."),
    errors.StepsError: ProblemType("too-many-steps", 422, "More steps than the base model was trained with."),
    errors.BlendError: ProblemType("incompatible-adapters", 422, "The adapters of a blend do not share a base model."),
    errors.NotAcceptableError: ProblemType("not-acceptable", 406, "Accept allows none of the available media types."),
    errors.InvalidImageError: ProblemType("invalid-image", 422, "The body is not an image of this service."),
    errors.VersionChangedError: ProblemType("version-changed", 409, "What the image was generated with has changed since."),
    errors.NoValidationImageError: ProblemType("no-validation-image", 404, "The version has no validation image."),
    errors.NoPreviewError: ProblemType("no-preview", 404, "The version has no preview, or is not in memory."),
    errors.WebhookUrlError: ProblemType("invalid-webhook-url", 422, "The webhook URL does not lead to an allowed host."),
    errors.UnknownJobError: ProblemType("unknown-job", 404, "There is no such job of this token, or no longer."),
    errors.IdempotencyConflictError: ProblemType(
        "idempotency-key-reused", 422, "The idempotency key came with another request."
    ),
    errors.UnknownModelError: ProblemType("unknown-model", 404, "The service has no model of this name."),
    errors.UnknownVersionError: ProblemType("unknown-version", 404, "The registered model has no such version."),
    errors.UnknownAliasError: ProblemType("unknown-alias", 404, "The registered model has no such alias."),
    errors.NoChampionError: ProblemType("no-champion", 409, "No version was promoted yet."),
    errors.QueueFullError: ProblemType("queue-full", 429, "As many requests wait as may wait; see Retry-After."),
    errors.UploadLimitError: ProblemType("upload-limit", 503, "The bodies being received have reached their total limit."),
    errors.VersionLoadingError: ProblemType("version-loading", 503, "The version is being loaded; see Retry-After."),
    errors.OutOfMemoryError: ProblemType("out-of-memory", 503, "There is not enough memory now; see Retry-After."),
    errors.CancelledJobError: ProblemType("job-cancelled", 503, "The request was cancelled."),
    errors.DrainingError: ProblemType("shutting-down", 503, "The service is shutting down."),
    errors.NotAnAdapterError: ProblemType("not-an-adapter", 409, "The version is tagged as something else than an adapter."),
    errors.AdapterError: ProblemType("invalid-adapter", 409, "The adapter's files do not fit its bundle, or are not finite."),
    errors.ArtifactSourceError: ProblemType("unsupported-source", 409, "The version's files are not on the tracking server."),
    errors.DigestMismatchError: ProblemType("digest-mismatch", 409, "The version's files are not those that were promoted."),
    errors.NotPromotedError: ProblemType("not-promoted", 409, "An alias points at a version that nobody decided on."),
    errors.BundleMismatchError: ProblemType("bundle-mismatch", 409, "The adapter belongs to another bundle."),
    errors.BundleMissingError: ProblemType("bundle-missing", 409, "No bundle with the adapter's digest is registered."),
    errors.RevertedError: ProblemType("version-reverted", 409, "The version generated invalid images and was reverted."),
    errors.BundleError: ProblemType("invalid-bundle", 502, "The bundle's files break the contract."),
    errors.CorruptFileError: ProblemType("corrupt-file", 502, "A file's SHA-256 differs from its manifest."),
    errors.NonFiniteError: ProblemType("non-finite-output", 500, "The latents or the image were not finite."),
    errors.GraphError: ProblemType("graph-failed", 500, "ONNX Runtime failed to run a graph."),
    errors.ProviderError: ProblemType("provider-failed", 500, "ONNX Runtime cannot run graphs as configured."),
    errors.CacheError: ProblemType("cache-failed", 500, "The cache folder cannot be read or written."),
    errors.TrackingError: ProblemType("tracking-unavailable", 503, "The tracking server does not answer."),
}
"""A test keeps it complete."""


def _headers(error: errors.InferError) -> Mapping[str, str]:
    if isinstance(error, errors.BusyError):
        return {"Retry-After": str(error.retry_after_s)}
    if isinstance(error, errors.TrackingError):
        return {"Retry-After": str(TRACKING_RETRY_AFTER_S)}
    return {}


TABLE = ProblemTable(errors.InferError, TYPES, _headers)

DOCUMENTED = problems.documented(404, 406, 408, 409, 413, 429, INTERNAL_ERROR.status, 502)
"""`responses` of an endpoint for OpenAPI."""
