"""Text output of the command line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Content = Mapping[str, Any]


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns as wide as their widest cell."""
    cells = [list(header), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells)


def models(items: Sequence[Content]) -> str:
    return table(
        ("MODEL", "LATEST", "ALIASES", "DESCRIPTION"),
        (
            (
                model["name"],
                model["latest_version"]["version"] if model["latest_version"] else None,
                " ".join(f"{alias}={number}" for alias, number in model["aliases"].items()),
                model["description"],
            )
            for model in items
        ),
    )


def versions(items: Sequence[Content]) -> str:
    return table(
        ("VERSION", "CREATED", "STATUS", "KIND", "VALIDATION LOSS", "ALIASES"),
        (
            (
                version["version"],
                _time(version["created_at"]),
                "RETIRED" if "atelier.retired" in version["tags"] else version["status"],
                version["kind"],
                (version["run"] or {}).get("metrics", {}).get("validation_loss"),
                " ".join(version["aliases"]),
            )
            for version in items
        ),
    )


def version(detail: Content) -> str:
    parts = {key: detail[key] for key in ("version", "status", "kind", "created_at", "aliases")}
    parts |= {f"lineage.{key}": value for key, value in detail["lineage"].items()}
    parts |= {f"evidence.{key}": value for key, value in (detail["evidence"] or {}).items()}
    parts |= {f"metrics.{key}": value for key, value in (detail["run"] or {}).get("metrics", {}).items()}
    parts |= {f"params.{key}": value for key, value in (detail["run"] or {}).get("params", {}).items()}
    lines = table(("FIELD", "VALUE"), parts.items())
    return "\n".join([lines, *(f"problem: {problem}" for problem in detail["problems"])])


def comparison(content: Content) -> str:
    rows = [(f"params.{name}", pair["left"], pair["right"], None) for name, pair in content["params"].items()]
    rows += [(f"metrics.{name}", pair["left"], pair["right"], pair["difference"]) for name, pair in content["metrics"].items()]
    header = ("", f"VERSION {content['left']['version']}", f"VERSION {content['right']['version']}", "DIFFERENCE")
    note = "" if content["losses_comparable"] else "\nThe losses were measured on different data, and cannot be compared."
    return table(header, rows) + note


def decision(content: Content) -> str:
    to = "nothing" if content["to_version"] is None else f"version {content['to_version']}"
    what = f"{content['model']}: {content['alias'] or content['action']} {content['from_version'] or 'unset'} → {to}"
    if content["style"]:
        what = f"{content['model']}: style"
    marks = " (forced)" if content["forced"] else ""
    lines = [f"decision {content['id']}, {content['outcome']}{marks}: {what}" if content["id"] else f"dry run: {what}"]
    lines += _style_changes(content["style"]) if content["style"] else []
    lines += [
        f"  {'pass' if verdict['passed'] else 'FAIL'}  {verdict['rule']}: {verdict['reason']}"
        for verdict in content["verdicts"]
    ]
    if content["outcome"] == "proposed":
        lines.append(f"  somebody else must approve: python -m atelier_registry approve {content['id']} --reason …")
    return "\n".join(lines)


def style(content: Content) -> str:
    sources, values = content["sources"], _flat(content["style"])
    rows = [(field, values[field], sources.get(field)) for field in values if field in sources]
    version = f"version {content['version']}" if content["version"] else "no champion"
    edited = f", edits of decision {content['decision']}" if content["decision"] else ""
    problem = f"\nproblem: {content['problem']}" if content["problem"] else ""
    return f"{content['model']}, {version}{edited}\n" + table(("FIELD", "VALUE", "FROM"), rows) + problem


def _style_changes(change: Content) -> list[str]:
    before, after = _flat(change["before"]), _flat(change["after"])
    fields = [field for field in {**before, **after} if before.get(field) != after.get(field)]
    return [f"  {field}: {_cell(before.get(field))} → {_cell(after.get(field))}" for field in fields]


def _flat(style: Content) -> dict[str, Any]:
    recommended = {f"recommended.{name}": value for name, value in (style["recommended"] or {}).items()}
    return {name: value for name, value in style.items() if name != "recommended"} | recommended


def decisions(items: Sequence[Content]) -> str:
    return table(
        ("ID", "AT", "ACTOR", "ACTION", "OUTCOME", "ALIAS", "FROM", "TO", "REASON"),
        (
            (
                item["id"],
                _time(item["at"]),
                item["actor"] + (f" + {item['approved_by']}" if item["approved_by"] else ""),
                item["action"],
                item["outcome"] + (" forced" if item["forced"] else ""),
                item["alias"],
                item["from_version"],
                item["to_version"],
                item["reason"],
            )
            for item in items
        ),
    )


def alias(state: Content) -> str:
    return (
        f"{state['model']} {state['alias']}: version {state['version']} since {state['since']}, by decision {state['decision']}"
    )


def subscribers(items: Sequence[Content]) -> str:
    return table(
        ("NAME", "URL", "LAST EVENT", "PENDING", "FAILED", "PROBLEM", "NEXT ATTEMPT"),
        (
            (
                *(item[key] for key in ("name", "url", "last_event_id", "pending_events", "failed_attempts", "problem")),
                _time(item["next_attempt_at"]) if item["next_attempt_at"] else None,
            )
            for item in items
        ),
    )


def ping_result(result: Content) -> str:
    return "delivered" if result["delivered"] else f"not delivered: it {result['problem']}"


def tokens(items: Sequence[Content]) -> str:
    return table(("ID", "ROLE"), ((token["id"], token["role"]) for token in items))


def _time(text: str) -> str:
    return text[:19].replace("T", " ")


def _cell(value: object) -> str:
    if value is None:
        return "–"
    text = f"{value:.6g}" if isinstance(value, float) else " ".join(map(str, value)) if isinstance(value, list) else str(value)
    # a reason may contain anything, but control characters must not reach a terminal
    return "".join(character if character.isprintable() else " " for character in text)
