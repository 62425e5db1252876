"""The command line: asks the running service over HTTP; tables for people, `--json` for programs, a status for scripts.

Exit status: 0 done, 1 something unforeseen, 2 wrong usage or settings, 3 refused by rules or preconditions, 4 not found,
5 no login or not allowed, 6 unavailable, try again, 7 proposed: waits for somebody else's approval, 8 the chain of decisions
is broken.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from atelier_contracts.tokens import Role

from atelier_registry.cli import formatting as show
from atelier_registry.cli.client import CallFailed, Client
from atelier_registry.cli.token_file import TokenEditError, issue, listed, revoke

DONE, UNFORESEEN, USAGE, REFUSED, NOT_FOUND, NOT_ALLOWED, UNAVAILABLE, PROPOSED, BROKEN = range(9)

_OF_HTTP = {
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
    options = _parser().parse_args(arguments)
    try:
        status: int = options.act(options)
    except CallFailed as error:
        return _failed(
            options, str(error), _OF_HTTP.get(error.status, UNFORESEEN if error.status else UNAVAILABLE), error.document
        )
    except TokenEditError as error:
        return _failed(options, str(error), USAGE, None)
    except BrokenPipeError:  # `… | head`
        sys.stderr.close()
        return UNFORESEEN
    return status


def _failed(options: argparse.Namespace, message: str, status: int, document: Mapping[str, Any] | None) -> int:
    if options.json and document:
        _print_json(document)
    sys.stderr.write(f"{message}\n")
    return status


def _models(options: argparse.Namespace) -> int:
    found = _client(options).every("/models", "models")
    return _shown(options, found, show.models)


def _versions(options: argparse.Namespace) -> int:
    client = _client(options)
    if options.version:
        return _shown(options, client.get(f"{_model(options)}/versions/{options.version}"), show.version)
    query = f"?limit={min(options.limit, 100)}&runs=true"
    found = client.every(f"{_model(options)}/versions{query}", "versions", most=options.limit)
    return _shown(options, found, show.versions)


def _compare(options: argparse.Namespace) -> int:
    found = _client(options).get(f"{_model(options)}/compare?left={options.left}&right={options.right}")
    return _shown(options, found, show.comparison)


def _promote(options: argparse.Namespace) -> int:
    return _decided(options, f"{_model(options)}/versions/{options.version}/promote", {})


def _roll_back(options: argparse.Namespace) -> int:
    return _decided(options, f"{_model(options)}/rollback", {"version": options.to} if options.to else {})


def _decided(options: argparse.Namespace, path: str, more: dict[str, Any]) -> int:
    body = {"alias": options.alias, "reason": options.reason, "force": options.force, "dry_run": options.dry_run} | more
    decision = _client(options).post(path, body, key=options.key, if_match=options.if_match)
    _shown(options, decision, show.decision)
    if decision["outcome"] == "dry_run":
        return DONE if all(verdict["passed"] for verdict in decision["verdicts"]) else REFUSED
    return PROPOSED if decision["outcome"] == "proposed" else DONE


def _retire(options: argparse.Namespace) -> int:
    path = f"{_model(options)}/versions/{options.version}/retire"
    return _shown(options, _client(options).post(path, {"reason": options.reason}, key=options.key), show.decision)


def _end_proposal(options: argparse.Namespace) -> int:
    path = f"/decisions/{options.decision}/{options.command}"
    return _shown(options, _client(options).post(path, {"reason": options.reason}), show.decision)


def _history(options: argparse.Namespace) -> int:
    client = _client(options)
    if options.at:
        path = f"{_model(options)}/aliases/{quote(options.alias or 'champion', safe='')}?at={quote(options.at, safe='')}"
        return _shown(options, client.get(path), show.alias)
    query = f"?limit={options.limit}" + (f"&alias={quote(options.alias, safe='')}" if options.alias else "")
    query += f"&outcome={options.outcome}" if options.outcome else ""
    return _shown(options, client.get(f"{_model(options)}/history{query}")["decisions"], show.decisions)


def _subscribers(options: argparse.Namespace) -> int:
    client = _client(options)
    if options.ping:
        found = client.post(f"/subscribers/{quote(options.ping, safe='')}/ping", {})
        _shown(options, found, lambda told: "taken" if told["taken"] else f"not taken: it {told['problem']}")
        return DONE if found["taken"] else UNAVAILABLE
    return _shown(options, client.get("/subscribers")["subscribers"], show.subscribers)


def _token(options: argparse.Namespace) -> int:
    file = Path(options.file)
    if options.what == "issue":
        secret = issue(file, options.id, Role[options.role])
        sys.stderr.write(f"{options.id} has the role {options.role}; this is the only time that the token is shown:\n")
        return _shown(options, {"id": options.id, "role": options.role, "token": secret}, lambda made: str(made["token"]))
    if options.what == "revoke":
        revoke(file, options.id)
        return _shown(options, {"id": options.id, "revoked": True}, lambda made: f"{made['id']} is revoked")
    return _shown(options, [{"id": token.id, "role": token.role.name} for token in listed(file)], show.tokens)


def _verify(options: argparse.Namespace) -> int:
    from sqlalchemy.exc import ArgumentError

    from atelier_registry.config.settings import with_password
    from atelier_registry.errors import RegistryApiError
    from atelier_registry.storage import hash_chain  # these take a second; other commands do without
    from atelier_registry.storage.ledger import Ledger
    from atelier_registry.storage.tables import open_database

    if not options.database:
        return _failed(options, "which database? set ATELIER_REGISTRY_DATABASE_URL, or give --database", USAGE, None)
    try:
        address = with_password(options.database, options.password_file and Path(options.password_file))
    except (OSError, ArgumentError) as error:
        return _failed(options, f"the database's address or password cannot be read: {error}", USAGE, None)
    engine = open_database(address)
    try:
        anchor = _anchor(options)  # before the rows, which may grow meanwhile
        found = hash_chain.verify(Ledger(engine).rows(), options.head, anchor)
    except hash_chain.BrokenChainError as error:
        return _failed(options, f"the chain is broken: {error}", BROKEN, {"intact": False, "problem": str(error)})
    except RegistryApiError as error:
        return _failed(options, f"{error} ({error.__cause__})"[:500], UNAVAILABLE, None)
    except OSError as error:
        return _failed(options, f"the tracking server's password cannot be read: {error}", USAGE, None)
    finally:
        engine.dispose()
    anchored = anchor[0] if anchor else None
    content = {"intact": True, "entries": found.entries, "head": found.head, "anchored_entry": anchored}
    where = f"entry {anchored} is as MLflow holds it" if anchored else "not compared with an anchor in MLflow"
    return _shown(
        options, content, lambda told: f"{told['entries']} entries, none changed or missing; {where}; head {told['head']}"
    )


def _anchor(options: argparse.Namespace) -> tuple[int, str] | None:
    """The entry that MLflow holds; None where it was not to be asked, or holds none yet.

    Raises:
        BrokenChainError: what it holds is no entry.
        TrackingUnavailableError: it does not answer.
    """
    if options.no_anchor or not options.tracking:
        return None
    from atelier_registry.config.settings import LOGIN
    from atelier_registry.decisions.chain_anchor import parse_anchor
    from atelier_registry.models.mlflow_registry import MlflowRegistry, limit_waiting

    limit_waiting(5)
    if options.tracking_password_file and not os.environ.get(LOGIN[1]):
        os.environ[LOGIN[1]] = Path(options.tracking_password_file).read_text().strip()
    return parse_anchor(MlflowRegistry(options.tracking).chain_head())


def _client(options: argparse.Namespace) -> Client:
    return Client(options.url, os.environ.get("ATELIER_TOKEN", ""))


def _model(options: argparse.Namespace) -> str:
    return f"/models/{quote(options.model, safe='')}"


def _shown(options: argparse.Namespace, content: Any, table: Any) -> int:
    if options.json:
        _print_json(content)
    else:
        sys.stdout.write(table(content) + "\n")
    return DONE


def _print_json(content: Any) -> None:
    sys.stdout.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m atelier_registry",
        description="Without a command: runs the service. The token is read from ATELIER_TOKEN, never from the command line.",
        epilog=__doc__.split("\n\n")[1] if __doc__ else None,
    )
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, act: Any, text: str, *, remote: bool = True) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.set_defaults(act=act)
        made.add_argument("--json", action="store_true", help="print JSON")
        if remote:
            url = os.environ.get("ATELIER_URL", "http://127.0.0.1:8001")
            made.add_argument("--url", default=url, help="address of registry-api (ATELIER_URL; %(default)s)")
        return made

    def deciding(made: argparse.ArgumentParser) -> None:
        made.add_argument("--alias", default="champion", help="which alias (%(default)s)")
        made.add_argument("--reason", required=True, help="kept with the decision")
        made.add_argument("--force", action="store_true", help="admin only: in spite of the rules; marked for ever")
        made.add_argument("--dry-run", action="store_true", help="say what would happen; status 3 where it would be refused")
        made.add_argument("--key", help="idempotency key: the same again is answered with what it did")
        made.add_argument("--if-match", help="ETag of the alias, as it must be now")

    command("models", _models, "list models and where their aliases point")
    made = command("versions", _versions, "list versions, or show one")
    made.add_argument("model")
    made.add_argument("version", nargs="?", type=int)
    made.add_argument("--limit", type=int, default=20, help="versions at most (%(default)s)")
    made = command("compare", _compare, "show where two versions differ")
    for name in ("model", "left", "right"):
        made.add_argument(name, type=str if name == "model" else int)
    made = command("promote", _promote, "point an alias at a version")
    made.add_argument("model")
    made.add_argument("version", type=int)
    deciding(made)
    made = command("rollback", _roll_back, "point an alias at the version before, or at a named one")
    made.add_argument("model")
    made.add_argument("--to", type=int, help="a version")
    deciding(made)
    made = command("retire", _retire, "take a version out of use")
    made.add_argument("model")
    made.add_argument("version", type=int)
    made.add_argument("--reason", required=True, help="kept with the decision")
    made.add_argument("--key", help="idempotency key")
    for name, text in (("approve", "carry out what somebody else proposed"), ("reject", "end a proposal")):
        made = command(name, _end_proposal, text)
        made.add_argument("decision", type=int, help="its id")
        made.add_argument("--reason", required=True, help="kept with the decision")
    made = command("history", _history, "list decisions, or tell where an alias pointed at a time")
    made.add_argument("model")
    made.add_argument("--alias", help="of this alias only")
    made.add_argument("--outcome", choices=["done", "refused", "proposed", "rejected", "pending", "failed"])
    made.add_argument("--limit", type=int, default=50, help="decisions at most (%(default)s)")
    made.add_argument("--at", help="a time such as 2026-03-01T12:00:00Z: where the alias (champion) pointed then")
    made = command("subscribers", _subscribers, "list who is told of moved aliases, and how far each is")
    made.add_argument("--ping", metavar="NAME", help="post a message to one now; status 6 where it is not taken")
    made = command("token", _token, "issue, list and revoke tokens in the token file", remote=False)
    made.add_argument("what", choices=["issue", "list", "revoke"])
    made.add_argument("id", nargs="?", help="who: the actor of their decisions")
    made.add_argument("role", nargs="?", choices=[role.name for role in Role])
    made.add_argument("--file", default=os.environ.get("ATELIER_REGISTRY_TOKEN_FILE"), help="ATELIER_REGISTRY_TOKEN_FILE")
    made.set_defaults(act=lambda options: _checked_token(made, options))
    check = command("verify", _verify, "prove that no decision was changed, removed or added", remote=False)
    check.add_argument(
        "--database", default=os.environ.get("ATELIER_REGISTRY_DATABASE_URL"), help="ATELIER_REGISTRY_DATABASE_URL"
    )
    name = "ATELIER_REGISTRY_DATABASE_PASSWORD_FILE"
    check.add_argument("--password-file", default=os.environ.get(name), help=name)
    check.add_argument("--head", help="a hash that verify printed earlier: it must still occur")
    name = "ATELIER_REGISTRY_TRACKING_URI"
    check.add_argument("--tracking", default=os.environ.get(name), help=f"MLflow, which holds the newest entry's hash ({name})")
    name = "ATELIER_REGISTRY_TRACKING_PASSWORD_FILE"
    check.add_argument("--tracking-password-file", default=os.environ.get(name), help=name)
    check.add_argument("--no-anchor", action="store_true", help="do not ask MLflow: the chain alone")
    return parser


def _checked_token(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """What argparse cannot say: which of `token`'s arguments belong to which of its words."""
    if not options.file:
        parser.error("which file? set ATELIER_REGISTRY_TOKEN_FILE, or give --file")
    if options.what == "issue" and not (options.id and options.role):
        parser.error("issue needs an id and a role, such as: token issue ana promoter")
    if options.what == "revoke" and not options.id:
        parser.error("revoke needs an id, such as: token revoke ana")
    return _token(options)
