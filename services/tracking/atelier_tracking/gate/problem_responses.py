"""Error responses of the gate as application/problem+json, rendered as nginx locations.

nginx sends them with `return`, which discards the body of the request; a script would first receive all of it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

PATH = "/problems"
"""`type` of a problem is this path with the problem type's name, as in the other services."""


@dataclass(frozen=True)
class ProblemType:
    """A kind of error that a client can test for. A test compares these with the types of the other services.

    Attributes:
        name: last part of the `type` URI, such as `role-too-low`.
        status: HTTP status.
        description: one sentence: when it happens.
    """

    name: str
    status: int
    description: str

    @property
    def uri(self) -> str:
        return f"{PATH}/{self.name}"

    @property
    def title(self) -> str:
        return self.name.replace("-", " ").capitalize()


@dataclass(frozen=True)
class Problem:
    """One error response.

    Attributes:
        type: of the problem.
        detail: the rule and the remedy.
        retry_s: value of Retry-After in seconds; None if a retry is useless.
    """

    type: ProblemType
    detail: str
    retry_s: int | None = None


BODY_TOO_LARGE = ProblemType("body-too-large", 413, "The body is larger than any legal request to this path.")

REFUSALS = {
    "path": Problem(
        ProblemType("noncanonical-path", 400, "The path, or a path in the query, is not in canonical form."),
        "The path must be in canonical form: without empty and dot segments, ; # ? and control characters, percent-encoded "
        "only where necessary; a path in the query likewise, and given once.",
    ),
    "length": Problem(
        ProblemType("length-required", 411, "The body has no Content-Length, and the path does not take a chunked one."),
        "The body must have a Content-Length; only uploads with PUT may be chunked.",
    ),
    "body": Problem(BODY_TOO_LARGE, "The body must not exceed {bare} KiB, or {read} KiB for a search. Send a smaller one."),
    "encoding": Problem(
        ProblemType("compressed-body", 415, "The body is compressed."),
        "The body must not be compressed. Send it without Content-Encoding.",
    ),
    "origin": Problem(ProblemType("foreign-origin", 403, "The page that sent the request has another origin."), "{origin}"),
    "role": Problem(
        ProblemType("role-too-low", 403, "The caller's role may not do this."),
        "Your role does not allow this. Ask an administrator of this server for another role.",
    ),
    "closed": Problem(
        ProblemType("not-offered", 403, "MLflow has this endpoint, but the server offers it to nobody."),
        "This server does not offer this.",
    ),
    "registry": Problem(
        ProblemType("registry-only", 403, "Only the registry service may change this of a registered model."),
        "Only the registry service may change names, aliases and tags of registered models. Request a promotion from it.",
    ),
    "frozen": Problem(
        ProblemType("registered-files", 403, "A registered version needs the files to be changed or deleted."),
        "A registered version needs these files, so they cannot be changed or deleted. Log a new model instead.",
    ),
    "no_id": Problem(
        ProblemType("path-without-id", 403, "The path of a file has no id of a run, a logged model or a trace."),
        "The path of a file must contain the id of a run, a logged model or a trace as a segment.",
    ),
    "space": Problem(
        ProblemType("insufficient-storage", 507, "There is not enough temporary disk space now; see Retry-After."),
        "There is not enough temporary disk space for a file of this size. Try again later, or give the server more disk.",
        60,
    ),
    "guesses": Problem(
        ProblemType("too-many-failed-logins", 429, "Too many logins from the same address failed; see Retry-After."),
        "Too many failed logins from this address. Try again in a minute.",
        30,
    ),
}
"""Reason of a refusal by the gate → response; auth_request itself can only return 401 or 403."""

UNAUTHENTICATED = Problem(
    ProblemType("login-required", 401, "The request has no login, or a wrong one."),
    "A login is required: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or enter them in the browser.",
)
NOT_FOUND = Problem(ProblemType("no-such-path", 404, "No endpoint has this path."), "This server does not offer this.")
ERRORS = (
    UNAUTHENTICATED,
    Problem(
        ProblemType("method-not-allowed", 405, "The endpoint does not take this method."),
        "This server does not offer this method.",
    ),
    Problem(
        ProblemType("request-timeout", 408, "The request did not arrive in time."),
        "The request was received too slowly. Send it again.",
    ),
    Problem(
        BODY_TOO_LARGE,
        "The body must not exceed {body} MiB on this route, or 10 MiB for a file uploaded from a page. "
        "Upload files of any size to /api/2.0/mlflow-artifacts/artifacts/.",
    ),
    Problem(ProblemType("url-too-long", 414, "The URL is too long."), "The URL is too long."),
    Problem(ProblemType("headers-too-large", 431, "The request headers are too large."), "The request headers are too large."),
    Problem(
        ProblemType("internal-error", 500, "A fault of the service; its log holds the traceback under the request id."),
        "Internal server error; see the log.",
    ),
    Problem(
        ProblemType("not-implemented", 501, "The server does not implement what the request needs."),
        "This server does not offer this.",
    ),
    Problem(
        ProblemType(
            "mlflow-unavailable", 503, "MLflow is starting, or a limit of concurrent requests is reached; see Retry-After."
        ),
        "MLflow is starting, or the limit of concurrent large requests or transfers is reached. Try again.",
        2,
    ),
    Problem(
        ProblemType("mlflow-timeout", 504, "MLflow did not respond in time."), "MLflow did not respond in time. Try again."
    ),
)
"""Errors that nginx itself returns."""

TYPES = frozenset(problem.type for problem in (*REFUSALS.values(), *ERRORS, NOT_FOUND))

ERROR_CODES = {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED"}
"""MLflow's clients show error_code and message."""


def return_directive(problem: Problem, values: dict[str, str]) -> str:
    """Nginx's directive that sends a response.

    Args:
        problem: the response.
        values: values of the placeholders of `detail`.
    """
    detail, kind = problem.detail.format_map(values), problem.type
    code = ERROR_CODES.get(kind.status, "REFUSED")
    body = {"type": kind.uri, "title": kind.title, "status": kind.status, "detail": detail, "error_code": code}
    text = json.dumps(body | {"message": detail, "instance": "$request_id"})
    if text.count("$") != 1 or "\\" in text:
        raise ValueError(f"a response must contain neither $ nor backslashes, which nginx interprets; received {detail}")
    return "return {} '{}\\n';".format(kind.status, text.replace("'", "\\'"))


def error_locations(values: dict[str, str]) -> str:
    """Named locations and their error_page directives, for site.conf.

    Args:
        values: `body` in MiB, `bare` and `read` in KiB, `origin`: the detail of that refusal.
    """
    lines = [f"error_page {problem.type.status} = @error_{problem.type.status};" for problem in ERRORS]
    lines += ["error_page 502 = @error_503;", "error_page 403 = @refused;", "error_page 404 = @missing;"]
    for problem in ERRORS:
        lines += [
            f"location @error_{problem.type.status} {{",
            *_headers(problem),
            f"    {return_directive(problem, values)}",
            "}",
        ]
    lines += ["location @refused {", *_headers()]
    for reason, problem in REFUSALS.items():
        lines += [f"    if ($refusal = {reason}) {{", f"        {return_directive(problem, values)}", "    }"]
    lines += [f"    {return_directive(REFUSALS['closed'], values)}", "}"]
    # requests that no location handles get the same 401 as those without a login
    lines += ["location @missing {", *_headers(UNAUTHENTICATED, "$challenge"), '    if ($target = "") {']
    lines += [
        f"        {return_directive(UNAUTHENTICATED, values)}",
        "    }",
        f"    {return_directive(NOT_FOUND, values)}",
        "}",
    ]
    return "\n        ".join(lines)


def _headers(problem: Problem | None = None, challenge: str = '\'Basic realm="tracking", charset="UTF-8"\'') -> list[str]:
    """All headers; add_header in a location replaces those of the levels above."""
    lines = [
        "types { }",
        "default_type application/problem+json;",
        "add_header X-Request-ID $request_id always;",
        "add_header Strict-Transport-Security $hsts always;",
    ]
    if problem is None:
        lines.append("add_header Retry-After $retry_after_s always;")
    elif problem.retry_s is not None:
        lines.append(f"add_header Retry-After {problem.retry_s} always;")
    elif problem is UNAUTHENTICATED:
        lines.append(f"add_header WWW-Authenticate {challenge} always;")
    return [f"    {line}" for line in lines]
