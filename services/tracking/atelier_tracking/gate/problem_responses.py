"""Every refusal of the gate's as problem+json: status, rule, what to do; as locations of nginx.

nginx answers them with `return`, which throws the request's body away. A script would first take all of it, of any size.
"""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One answer.

    Attributes:
        status: of HTTP.
        detail: the rule and what to do.
        retry_s: seconds after which trying again makes sense; None where it does not.
    """

    status: int
    detail: str
    retry_s: int | None = None


REFUSALS = {
    "path": Problem(
        400,
        "The path is written in an unusual way. Write it without empty and dot segments, ; # ? and control characters, "
        "with escapes only where they are needed, and a path in the query once and likewise.",
    ),
    "length": Problem(411, "A body needs a Content-Length here. Only files that are put may come in chunks."),
    "body": Problem(413, "The body is larger than {bare} KiB, with a search than {read} KiB. Send a smaller one."),
    "encoding": Problem(415, "Bodies are not taken compressed. Send this one without Content-Encoding."),
    "origin": Problem(403, "{origin}"),
    "role": Problem(403, "Your role does not allow this. Ask an administrator of this server for another role."),
    "closed": Problem(403, "This server does not offer this."),
    "registry": Problem(
        403, "Names, aliases and tags of registered models are moved by the registry service alone. Ask it for a promotion."
    ),
    "frozen": Problem(
        403, "A registered version needs these files, so they are not changed or deleted. Log a new model instead."
    ),
    "nobody": Problem(
        403, "Only files of a run, a logged model or a trace are read and written here: its id must be a segment of the path."
    ),
    "space": Problem(
        507,
        "There is not enough temporary disk for a file of this size now. Try again later, or give the server more disk.",
        60,
    ),
    "guesses": Problem(429, "Too many wrong logins from this address. Try again in a minute.", 30),
}
"""By the reason that the gate gives; auth_request itself can only say 401 or 403."""

LOGIN = Problem(
    401, "A login is needed: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or type them in the browser."
)
MISSING = Problem(404, "This server does not offer this.")
ERRORS = (
    LOGIN,
    Problem(405, "This server does not offer this method."),
    Problem(408, "The request came too slowly. Send it again."),
    Problem(
        413,
        "The body is larger than this route takes: {body} MiB, and 10 MiB where a page uploads a file. "
        "Files of any size go to /api/2.0/mlflow-artifacts/artifacts/.",
    ),
    Problem(414, "The address is too long."),
    Problem(431, "The head of the request is too large."),
    Problem(500, "The request failed; the server log says more."),
    Problem(501, "This server does not offer this."),
    Problem(503, "MLflow is starting, or as many large bodies or transfers run as may run. Try again.", 2),
    Problem(504, "MLflow did not answer in time. Try again."),
)
"""What nginx refuses by itself."""

CODES = {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED"}
"""MLflow's clients show error_code and message."""


def returned(problem: Problem, title: str, values: dict[str, str]) -> str:
    """The directive that answers.

    Args:
        problem: see there.
        title: reason in one word.
        values: for what is in braces in a detail.
    """
    detail = problem.detail.format_map(values)
    code = CODES.get(problem.status, "REFUSED")
    body = {"type": "about:blank", "title": title, "status": problem.status, "detail": detail, "error_code": code}
    text = json.dumps(body | {"message": detail, "instance": "$request_id"})
    if text.count("$") != 1 or "\\" in text:
        raise ValueError(f"an answer must hold neither $ nor a backslash, which nginx reads as its own; received {detail}")
    return "return {} '{}\\n';".format(problem.status, text.replace("'", "\\'"))


def locations(values: dict[str, str]) -> str:
    """Named locations and the error_page directives that lead to them, for site.conf.

    Args:
        values: `body` in MiB, `bare` and `read` in KiB, `origin`: a sentence.
    """
    lines = [f"error_page {problem.status} = @error_{problem.status};" for problem in ERRORS]
    lines += ["error_page 502 = @error_503;", "error_page 403 = @refused;", "error_page 404 = @missing;"]
    for problem in ERRORS:
        lines += [f"location @error_{problem.status} {{", *_head(problem), f"    {returned(problem, 'refused', values)}", "}"]
    lines += ["location @refused {", *_head()]
    for reason, problem in REFUSALS.items():
        lines += [f"    if ($refusal = {reason}) {{", f"        {returned(problem, reason, values)}", "    }"]
    lines += [f"    {returned(REFUSALS['closed'], 'closed', values)}", "}"]
    # what no location of the gate's knows is answered as if it were behind the login
    lines += ["location @missing {", *_head(LOGIN, "$unasked"), '    if ($asked = "") {']
    lines += [f"        {returned(LOGIN, 'refused', values)}", "    }", f"    {returned(MISSING, 'refused', values)}", "}"]
    return "\n        ".join(lines)


def _head(problem: Problem | None = None, challenge: str = '\'Basic realm="tracking", charset="UTF-8"\'') -> list[str]:
    """Headers; those of an earlier level are replaced by them, so all are here."""
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
    elif problem is LOGIN:
        lines.append(f"add_header WWW-Authenticate {challenge} always;")
    return [f"    {line}" for line in lines]
