"""Names and tags that only REGISTRY_USER may set when a registered model or a version is created.

The gate decides by path; names and tags are in the body, so they are checked here, with MLflow's own parser.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from atelier_tracking.errors import ServerError

PREFIX = "atelier."
UNRESERVED_TAGS = ("atelier.kind", "atelier.bundle_digest", "atelier.source_digest")
"""Tags that the trainer sets when it registers a version."""
RESERVED_MODELS = ("atelier-decisions",)
"""Registered models that only REGISTRY_USER may create."""
USER_HEADER = "X-Tracking-User"
"""Set by nginx; replaces a header of the client."""


def violation(name: str, tags: list[str], creates_model: bool) -> str | None:
    """The rule that a user other than REGISTRY_USER violates by creating this; None if there is none.

    Args:
        name: name of the registered model.
        tags: keys of the tags.
        creates_model: whether a registered model is created, or a version of one.
    """
    reserved = sorted(key for key in tags if key.strip().lower().startswith(PREFIX) and key not in UNRESERVED_TAGS)
    if reserved:
        exceptions = ", ".join(UNRESERVED_TAGS)
        return f"Only the registry service may set tags that begin with {PREFIX}, except {exceptions}; received {reserved}"
    if creates_model and name.strip().lower() in RESERVED_MODELS:
        return f"Only the registry service may create the registered model {name}."
    return None


def protect_handlers(registry_user: str) -> None:
    """Wraps MLflow's two handlers that create registered models and versions.

    Args:
        registry_user: the user who may set everything.

    Raises:
        ServerError: this version of MLflow has no such handlers.
    """
    from flask import Response, jsonify, request
    from mlflow.protos.model_registry_pb2 import CreateModelVersion, CreateRegisteredModel
    from mlflow.server import app, handlers

    def checked(view: Callable[..., Any], message: type[Any]) -> Callable[..., Any]:
        def handle(*arguments: Any, **named: Any) -> Any:
            if request.headers.get(USER_HEADER) == registry_user:
                return view(*arguments, **named)
            try:
                body = handlers._get_request_message(message())
            except Exception:  # noqa: BLE001  # MLflow's handler parses the body again and reports the error
                return view(*arguments, **named)
            problem = violation(body.name, [tag.key for tag in body.tags], message is CreateRegisteredModel)
            if problem is None:
                return view(*arguments, **named)
            response: Response = jsonify(error_code="PERMISSION_DENIED", message=problem)
            response.status_code = 403
            return response

        return handle

    endpoints = {"_create_model_version": CreateModelVersion, "_create_registered_model": CreateRegisteredModel}
    for endpoint, message in endpoints.items():
        if endpoint not in app.view_functions:
            raise ServerError(
                f"MLflow must have the handler {endpoint}, or tags cannot be protected; install the pinned version"
            )
        app.view_functions[endpoint] = checked(app.view_functions[endpoint], message)
