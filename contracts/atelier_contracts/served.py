"""The part of infer's `GET /models` that registry-api reads: the version each alias serves, and what infer reverted."""

from __future__ import annotations

from pydantic import BaseModel, Field

from atelier_contracts.identifiers import AliasName, Digest, ModelName, VersionNumber


class ServedAlias(BaseModel):
    target_version: VersionNumber = Field(description="the version that the registry names")
    serving_version: VersionNumber | None = Field(
        default=None, description="the version that generates; another one while the target is loading or was refused"
    )
    adapter_digest: Digest | None = Field(default=None, description="of the files in use")
    reverted_version: VersionNumber | None = Field(
        default=None, description="the version that infer stopped serving because its images were blank or not finite"
    )
    problem: str | None = Field(
        default=None, description="why the target was refused, or which files of the serving version were changed"
    )


class ServedModel(BaseModel):
    model: ModelName
    aliases: dict[AliasName, ServedAlias]
