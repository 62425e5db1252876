"""What registry-api reads of infer's `GET /models`: what each alias draws with, and what infer stopped drawing with."""

from __future__ import annotations

from pydantic import BaseModel

from atelier_contracts.identifiers import AliasName, Digest, ModelName, VersionNumber


class ServedAlias(BaseModel):
    """One alias. infer's own answer says more."""

    target: VersionNumber
    serving: VersionNumber | None = None
    adapter_digest: Digest | None = None
    reverted_from: VersionNumber | None = None
    problem: str | None = None


class ServedModel(BaseModel):
    """The registered model that one infer serves."""

    model: ModelName
    aliases: dict[AliasName, ServedAlias]
