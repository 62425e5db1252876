"""Styles of models: a version's own one with the model's edits over it, and decisions on these edits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from atelier_contracts.names import CHAMPION
from atelier_contracts.promotion import Decision, EditStyleRequest, StyleChange
from atelier_contracts.styles import MAX_TAG_CHARACTERS, RecordedEdits, Style, StyleEdits, field_names

from atelier_registry.decisions.caller import Caller, find_repeated, fingerprint
from atelier_registry.decisions.styles.style_writer import StyleWriter
from atelier_registry.errors import InvalidArgumentError
from atelier_registry.models.catalogue import find_model, find_version, own_style
from atelier_registry.models.model_registry import ModelRegistry, RegistryReader
from atelier_registry.storage.entries import STYLE, DecisionFacts, style_details
from atelier_registry.storage.ledger import Ledger

_LARGEST_ID = 2**63 - 1  # a decision's id takes no more digits in the tag


@dataclass(frozen=True)
class EffectiveStyle:
    """A style as people and infer see it.

    Attributes:
        version: whose own style lies below; None where the model has no champion.
        sources: for each field with a value, whether the version or an edit says so.
        recorded: the edits.
        preview: path of the version's preview.
        problem: why the version's own style is missing.
    """

    model: str
    version: int | None
    style: Style
    sources: dict[str, Literal["version", "edit"]]
    recorded: RecordedEdits
    preview: str | None
    problem: str | None

    @property
    def etag(self) -> str:
        return style_etag(self.version, self.recorded)


def style_etag(version: int | None, recorded: RecordedEdits) -> str:
    """It names the version and the decision, as the ETag of an alias does."""
    return f'"{version or 0}-{recorded.decision}"'


class StyleEditor:
    """Shows and edits styles.

    Args:
        registry: versions and aliases.
        ledger: the decisions.
        writer: carries decisions out.
    """

    def __init__(self, registry: ModelRegistry, ledger: Ledger, writer: StyleWriter) -> None:
        self._registry, self._ledger, self._writer = registry, ledger, writer

    def show(self, reader: RegistryReader, name: str, number: int | None) -> EffectiveStyle:
        """The style of a version, or of the champion.

        Raises:
            NotFoundError: the model or the named version does not exist.
            UnavailableError: MLflow or the database does not answer.
        """
        model = find_model(reader, name)
        number = number or model.aliases.get(CHAMPION)
        own, preview, problem = Style(), None, None
        if number is not None:
            own, preview, problem = own_style(reader, find_version(reader, name, number))
        recorded = self._ledger.style_changes.last(name)
        style = recorded.edits.over(own)
        edited = field_names(recorded.edits)
        sources: dict[str, Literal["version", "edit"]] = {
            field: "edit" if field in edited else "version" for field in sorted(field_names(style) | edited)
        }
        return EffectiveStyle(name, number, style, sources, recorded, preview, problem)

    def edit(self, caller: Caller, name: str, request: EditStyleRequest) -> Decision:
        """Edits a model's style. Where nothing changes, returns the decision that made it so.

        Raises:
            NotFoundError: the model does not exist.
            RefusedError: the edits are too long, there is nothing to take back, a precondition does not hold, or the key was
                used for another request.
            UnavailableError: MLflow or the database does not answer, or other decisions take too long.
        """
        patch = request.model_dump(mode="json", exclude_unset=True)
        request_fingerprint = fingerprint("style", name, patch)
        with self._writer.locked(name) as model:
            if (repeated := find_repeated(self._ledger, caller, request_fingerprint)) is not None:
                return repeated
            recorded = self._ledger.style_changes.last(name)
            caller.check_preconditions(style_etag(model.aliases.get(CHAMPION), recorded))
            change = StyleChange(before=recorded.edits, after=recorded.edits.patched(request.style))
            if change.after.values() == change.before.values():
                if recorded.decision:
                    return self._ledger.decision(recorded.decision)
                raise InvalidArgumentError(
                    f"style must edit a field or take an edit back; {name} has no edits, and received {patch['style']}"
                )
            _check_length(change.after)
            facts = DecisionFacts(
                actor=caller.id,
                action="style",
                model=name,
                alias=None,
                from_version=None,
                to_version=None,
                reason=request.reason,
                key=caller.key,
                details={STYLE: style_details(change), "request": request_fingerprint},
            )
            return self._writer.write(facts, change)


def _check_length(edits: StyleEdits) -> None:
    length = len(RecordedEdits(decision=_LARGEST_ID, edits=edits).tag())
    if length > MAX_TAG_CHARACTERS:
        raise InvalidArgumentError(
            f"the edits of a style may have at most {MAX_TAG_CHARACTERS} characters together, as JSON; received {length}: "
            "shorten the description"
        )
