"""What Terraform made, as its outputs tell it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from atelier_infra.errors import AnswerError, NotReadyError


class Service(BaseModel):
    """One service of the environment.

    Attributes:
        running: False while only data is kept.
        service: its ECS service.
        template_arn: task definition that rollouts copy.
        repository: address of its images, without a tag.
        log_group: where its log is.
        port: that it listens on.
        name: fixed name behind the load balancer; None without one.
        secret: of Secrets Manager; None with env files.
        secret_names: variables that the secret or the env file holds.
        environment: variables that are no secrets.
        from_manager: variables whose secret Terraform makes.
    """

    model_config = ConfigDict(frozen=True)

    running: bool
    service: str | None
    template_arn: str | None
    repository: str
    log_group: str
    port: int
    name: str | None
    secret: str | None
    secret_names: list[str]
    environment: list[str]
    from_manager: list[str]


class Schedule(BaseModel):
    model_config = ConfigDict(frozen=True)

    start: str
    stop: str
    days: str
    timezone: str


class Stack(BaseModel):
    """The environment. `database` is None while only data is kept."""

    model_config = ConfigDict(frozen=True)

    name: str
    region: str
    cluster: str
    services: dict[str, Service]
    database: str | None
    artifact_bucket: str
    config_bucket: str | None
    balancer: str | None
    schedule: Schedule | None

    def chosen(self, names: list[str]) -> dict[str, Service]:
        """The services that a command is about, tracking first because the others need it.

        Args:
            names: as typed; none means all.

        Raises:
            AnswerError: one of them is not part of the environment.
            NotReadyError: only the data is left.
        """
        if unknown := sorted(set(names) - set(self.services)):
            known = ", ".join(sorted(self.services))
            raise AnswerError(f"{', '.join(unknown)}: no such service here; there are {known} (terraform.tfvars, services)")
        if not any(service.running for service in self.services.values()):
            raise NotReadyError("only the data of this environment is left; run `python -m atelier_infra up` to bring it back")
        order = sorted(names or self.services, key=lambda name: (name != "tracking", name))
        return {name: self.services[name] for name in order}


def read_stack(outputs: dict[str, Any]) -> Stack:
    """Reads `terraform output -json`.

    Raises:
        NotReadyError: nothing was made yet, or not everything.
    """
    if "cluster" not in outputs:
        raise NotReadyError("nothing is there yet; run `python -m atelier_infra up`")
    try:
        return Stack.model_validate({name: each["value"] for name, each in outputs.items()} | _absent(outputs))
    except ValidationError as error:
        missing = ", ".join(str(each["loc"][0]) for each in error.errors())
        raise NotReadyError(
            f"`up` has not finished ({missing} not known yet); run `python -m atelier_infra up` again"
        ) from error


def _absent(outputs: dict[str, Any]) -> dict[str, None]:
    # Terraform leaves outputs out whose value is null
    return {name: None for name in ("database", "config_bucket", "balancer", "schedule") if name not in outputs}
