"""Tags and names that promotions stand on: set by REGISTRY_USER alone, also where a version or model is created with them.

The gate decides by path; what is created with which tags stands in the body, so it is read here, by MLflow's own parser.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from atelier_tracking.errors import ServerError

PREFIX = "atelier."
FREE = ("atelier.kind", "atelier.bundle_digest", "atelier.source_digest")
"""Tags that a trainer gives a version when it registers it."""
MODELS = ("atelier-decisions",)
"""Registered models that only REGISTRY_USER may create."""
USER_HEADER = "X-Tracking-User"
"""Set by nginx over whatever the client sent."""


def refusal(name: str, tags: list[str], creates_model: bool) -> str | None:
    """Why a user who is not REGISTRY_USER may not create this; None where it may.

    Args:
        name: of the registered model.
        tags: their keys.
        creates_model: whether it is a registered model; otherwise a version of one.
    """
    reserved = sorted(key for key in tags if key.strip().lower().startswith(PREFIX) and key not in FREE)
    if reserved:
        free = ", ".join(FREE)
        return f"Tags that begin with {PREFIX} are set by the registry service alone, but for {free}; received {reserved}"
    if creates_model and name.strip().lower() in MODELS:
        return f"The registered model {name} is created by the registry service alone."
    return None


def reserve(registry_user: str) -> None:
    """Puts the rule before the two handlers of MLflow that create.

    Args:
        registry_user: whom the rule does not concern.

    Raises:
        ServerError: this MLflow has other handlers.
    """
    from flask import Response, jsonify, request
    from mlflow.protos.model_registry_pb2 import CreateModelVersion, CreateRegisteredModel
    from mlflow.server import app, handlers

    def checked(view: Callable[..., Any], message: type[Any]) -> Callable[..., Any]:
        def answer(*arguments: Any, **named: Any) -> Any:
            if request.headers.get(USER_HEADER) == registry_user:
                return view(*arguments, **named)
            try:
                asked = handlers._get_request_message(message())
            except Exception:  # noqa: BLE001  # MLflow's handler reads it the same way and says what is wrong
                return view(*arguments, **named)
            problem = refusal(asked.name, [tag.key for tag in asked.tags], message is CreateRegisteredModel)
            if problem is None:
                return view(*arguments, **named)
            refused: Response = jsonify(error_code="PERMISSION_DENIED", message=problem)
            refused.status_code = 403
            return refused

        return answer

    creators = {"_create_model_version": CreateModelVersion, "_create_registered_model": CreateRegisteredModel}
    for endpoint, message in creators.items():
        if endpoint not in app.view_functions:
            raise ServerError(f"this MLflow has no handler {endpoint}, so tags cannot be protected; use the pinned version")
        app.view_functions[endpoint] = checked(app.view_functions[endpoint], message)
