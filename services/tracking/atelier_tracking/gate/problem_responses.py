"""Error responses of the gate as application/problem+json, rendered as nginx locations.

nginx sends them with `return`, which discards the body of the request; a script would first receive all of it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One error response.

    Attributes:
        status: HTTP status.
        detail: the rule and the remedy.
        retry_s: value of Retry-After in seconds; None if a retry is useless.
    """

    status: int
    detail: str
    retry_s: int | None = None


REFUSALS = {
    "path": Problem(
        400,
        "The path must be in canonical form: without empty and dot segments, ; # ? and control characters, percent-encoded "
        "only where necessary; a path in the query likewise, and given once.",
    ),
    "length": Problem(411, "The body must have a Content-Length; only uploads with PUT may be chunked."),
    "body": Problem(413, "The body must not exceed {bare} KiB, or {read} KiB for a search. Send a smaller one."),
    "encoding": Problem(415, "The body must not be compressed. Send it without Content-Encoding."),
    "origin": Problem(403, "{origin}"),
    "role": Problem(403, "Your role does not allow this. Ask an administrator of this server for another role."),
    "closed": Problem(403, "This server does not offer this."),
    "registry": Problem(
        403, "Only the registry service may change names, aliases and tags of registered models. Request a promotion from it."
    ),
    "frozen": Problem(
        403, "A registered version needs these files, so they cannot be changed or deleted. Log a new model instead."
    ),
    "no_id": Problem(403, "The path of a file must contain the id of a run, a logged model or a trace as a segment."),
    "space": Problem(
        507,
        "There is not enough temporary disk space for a file of this size. Try again later, or give the server more disk.",
        60,
    ),
    "guesses": Problem(429, "Too many failed logins from this address. Try again in a minute.", 30),
}
"""Reason of a refusal by the gate → response; auth_request itself can only return 401 or 403."""

UNAUTHENTICATED = Problem(
    401, "A login is required: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or enter them in the browser."
)
NOT_FOUND = Problem(404, "This server does not offer this.")
ERRORS = (
    UNAUTHENTICATED,
    Problem(405, "This server does not offer this method."),
    Problem(408, "The request was received too slowly. Send it again."),
    Problem(
        413,
        "The body must not exceed {body} MiB on this route, or 10 MiB for a file uploaded from a page. "
        "Upload files of any size to /api/2.0/mlflow-artifacts/artifacts/.",
    ),
    Problem(414, "The URL is too long."),
    Problem(431, "The request headers are too large."),
    Problem(500, "Internal server error; see the log."),
    Problem(501, "This server does not offer this."),
    Problem(503, "MLflow is starting, or the limit of concurrent large requests or transfers is reached. Try again.", 2),
    Problem(504, "MLflow did not respond in time. Try again."),
)
"""Errors that nginx itself returns."""

ERROR_CODES = {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED"}
"""MLflow's clients show error_code and message."""


def return_directive(problem: Problem, title: str, values: dict[str, str]) -> str:
    """Nginx's directive that sends a response.

    Args:
        problem: the response.
        title: reason in one word.
        values: values of the placeholders of `detail`.
    """
    detail = problem.detail.format_map(values)
    code = ERROR_CODES.get(problem.status, "REFUSED")
    body = {"type": "about:blank", "title": title, "status": problem.status, "detail": detail, "error_code": code}
    text = json.dumps(body | {"message": detail, "instance": "$request_id"})
    if text.count("$") != 1 or "\\" in text:
        raise ValueError(f"a response must contain neither $ nor backslashes, which nginx interprets; received {detail}")
    return "return {} '{}\\n';".format(problem.status, text.replace("'", "\\'"))


def error_locations(values: dict[str, str]) -> str:
    """Named locations and their error_page directives, for site.conf.

    Args:
        values: `body` in MiB, `bare` and `read` in KiB, `origin`: the detail of that refusal.
    """
    lines = [f"error_page {problem.status} = @error_{problem.status};" for problem in ERRORS]
    lines += ["error_page 502 = @error_503;", "error_page 403 = @refused;", "error_page 404 = @missing;"]
    for problem in ERRORS:
        lines += [
            f"location @error_{problem.status} {{",
            *_headers(problem),
            f"    {return_directive(problem, 'refused', values)}",
            "}",
        ]
    lines += ["location @refused {", *_headers()]
    for reason, problem in REFUSALS.items():
        lines += [f"    if ($refusal = {reason}) {{", f"        {return_directive(problem, reason, values)}", "    }"]
    lines += [f"    {return_directive(REFUSALS['closed'], 'closed', values)}", "}"]
    # requests that no location handles get the same 401 as those without a login
    lines += ["location @missing {", *_headers(UNAUTHENTICATED, "$challenge"), '    if ($target = "") {']
    lines += [
        f"        {return_directive(UNAUTHENTICATED, 'refused', values)}",
        "    }",
        f"    {return_directive(NOT_FOUND, 'refused', values)}",
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
