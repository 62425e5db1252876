"""What the command line shows to people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Content = Mapping[str, Any]


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns as wide as their widest cell."""
    cells = [list(head), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells)


def models(found: Sequence[Content]) -> str:
    """One row for each model."""
    return table(
        ("MODEL", "LATEST", "ALIASES", "DESCRIPTION"),
        (
            (
                model["name"],
                model["latest_version"]["version"] if model["latest_version"] else None,
                " ".join(f"{alias}={number}" for alias, number in model["aliases"].items()),
                model["description"],
            )
            for model in found
        ),
    )


def versions(found: Sequence[Content]) -> str:
    """One row for each version, newest first."""
    return table(
        ("VERSION", "CREATED", "STATUS", "KIND", "VALIDATION LOSS", "ALIASES"),
        (
            (
                version["version"],
                _moment(version["created_at"]),
                "RETIRED" if "atelier.retired" in version["tags"] else version["status"],
                version["kind"],
                (version["run"] or {}).get("metrics", {}).get("validation_loss"),
                " ".join(version["aliases"]),
            )
            for version in found
        ),
    )


def version(found: Content) -> str:
    """Everything of one version."""
    parts = {key: found[key] for key in ("version", "status", "kind", "created_at", "aliases")}
    parts |= {f"lineage.{key}": value for key, value in found["lineage"].items()}
    parts |= {f"evidence.{key}": value for key, value in (found["evidence"] or {}).items()}
    parts |= {f"metrics.{key}": value for key, value in (found["run"] or {}).get("metrics", {}).items()}
    parts |= {f"params.{key}": value for key, value in (found["run"] or {}).get("params", {}).items()}
    lines = table(("FIELD", "VALUE"), parts.items())
    return "\n".join([lines, *(f"problem: {problem}" for problem in found["problems"])])


def comparison(found: Content) -> str:
    """Two versions side by side."""
    rows = [(f"params.{name}", pair["left"], pair["right"], None) for name, pair in found["params"].items()]
    rows += [(f"metrics.{name}", pair["left"], pair["right"], pair["difference"]) for name, pair in found["metrics"].items()]
    head = ("", f"VERSION {found['left']['version']}", f"VERSION {found['right']['version']}", "DIFFERENCE")
    note = "" if found["losses_comparable"] else "\nThe losses were measured on different data, and cannot be compared."
    return table(head, rows) + note


def decision(found: Content) -> str:
    """One decision, and what its rules said."""
    to = "nothing" if found["to_version"] is None else f"version {found['to_version']}"
    what = f"{found['model']}: {found['alias'] or found['action']} {found['from_version'] or 'unset'} → {to}"
    marks = " (forced)" if found["forced"] else ""
    lines = [f"decision {found['id']}, {found['outcome']}{marks}: {what}" if found["id"] else f"dry run: {what}"]
    lines += [
        f"  {'pass' if verdict['passed'] else 'FAIL'}  {verdict['rule']}: {verdict['reason']}" for verdict in found["verdicts"]
    ]
    if found["outcome"] == "proposed":
        lines.append(f"  somebody else must approve: python -m atelier_registry approve {found['id']} --reason …")
    return "\n".join(lines)


def decisions(found: Sequence[Content]) -> str:
    """One row for each decision, newest first."""
    return table(
        ("ID", "AT", "WHO", "ACTION", "OUTCOME", "ALIAS", "FROM", "TO", "REASON"),
        (
            (
                each["id"],
                _moment(each["at"]),
                each["actor"] + (f" + {each['approved_by']}" if each["approved_by"] else ""),
                each["action"],
                each["outcome"] + (" forced" if each["forced"] else ""),
                each["alias"],
                each["from_version"],
                each["to_version"],
                each["reason"],
            )
            for each in found
        ),
    )


def alias(found: Content) -> str:
    """Where an alias points."""
    return (
        f"{found['model']} {found['alias']}: version {found['version']} since {found['since']}, by decision {found['decision']}"
    )


def subscribers(found: Sequence[Content]) -> str:
    """One row for each subscriber."""
    return table(
        ("NAME", "URL", "LAST EVENT", "WAITING", "TRIES", "PROBLEM", "NEXT TRY"),
        (
            (
                *(each[key] for key in ("name", "url", "last_event", "waiting", "tries", "problem")),
                _moment(each["next_try_at"]) if each["next_try_at"] else None,
            )
            for each in found
        ),
    )


def tokens(found: Sequence[Content]) -> str:
    """One row for each token; the tokens themselves are not known."""
    return table(("ID", "ROLE"), ((token["id"], token["role"]) for token in found))


def _moment(text: str) -> str:
    return text[:19].replace("T", " ")


def _cell(value: object) -> str:
    if value is None:
        return "–"
    text = f"{value:.6g}" if isinstance(value, float) else " ".join(map(str, value)) if isinstance(value, list) else str(value)
    # a reason may hold anything: control characters must not reach a terminal
    return "".join(character if character.isprintable() else " " for character in text)
