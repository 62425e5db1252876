"""The command line: calls the running service over HTTP, or works on this machine's token file and database."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from atelier_registry.cli.client import RequestFailed
from atelier_registry.cli.output import FAILED, NOT_ALLOWED, NOT_FOUND, REFUSED, UNAVAILABLE, USAGE, fail
from atelier_registry.cli.parser import build_parser
from atelier_registry.cli.token_file import TokenEditError

_STATUS_OF_HTTP = {
    0: UNAVAILABLE,
    401: NOT_ALLOWED,
    403: NOT_ALLOWED,
    404: NOT_FOUND,
    409: REFUSED,
    412: REFUSED,
    422: USAGE,
    429: UNAVAILABLE,
    503: UNAVAILABLE,
}


def run(arguments: Sequence[str]) -> int:
    """Runs one command; returns the exit status."""
    options = build_parser().parse_args(arguments)
    try:
        status: int = options.run(options)
    except RequestFailed as error:
        return fail(options, str(error), _STATUS_OF_HTTP.get(error.status, FAILED), error.document)
    except TokenEditError as error:
        return fail(options, str(error), USAGE)
    except BrokenPipeError:  # `… | head`
        sys.stderr.close()
        return FAILED
    return status
