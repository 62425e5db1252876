"""An existing environment, read from Terraform's outputs."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from atelier_infra.errors import InputError, NotReadyError


class Service(BaseModel):
    """One service of the environment.

    Attributes:
        running: False after `destroy` without --data.
        service: name of the ECS service.
        template_arn: task definition that `deploy` copies.
        repository: URL of its images, without a tag.
        log_group: CloudWatch log group.
        port: port that it listens on.
        name: domain name behind the load balancer; None without one.
        secret: name of the secret in Secrets Manager; None with env files.
        secret_names: environment variables in the secret or the env file.
        environment: environment variables that are not secret.
        from_manager: environment variables whose secret Terraform creates.
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
    """The environment. `database` is None after `destroy` without --data."""

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

    def select(self, names: list[str]) -> dict[str, Service]:
        """The named services, or all if there are no names; tracking first, because the others need it.

        Raises:
            InputError: a service is not part of the environment.
            NotReadyError: the environment was destroyed and only its data is kept.
        """
        if unknown := sorted(set(names) - set(self.services)):
            existing = ", ".join(sorted(self.services))
            raise InputError(
                f"services must be of this environment ({existing}); received {', '.join(unknown)}; "
                "add it to `services` in terraform.tfvars and run `up`"
            )
        if not any(service.running for service in self.services.values()):
            raise NotReadyError(
                "only the data of this environment is kept; run `python -m atelier_infra up` to recreate the rest"
            )
        order = sorted(names or self.services, key=lambda name: (name != "tracking", name))
        return {name: self.services[name] for name in order}


def read_stack(outputs: dict[str, Any]) -> Stack:
    """Parses `terraform output -json`.

    Raises:
        NotReadyError: `up` was never run, or was interrupted.
    """
    if "cluster" not in outputs:
        raise NotReadyError("the environment does not exist yet; run `python -m atelier_infra up`")
    try:
        return Stack.model_validate({name: output["value"] for name, output in outputs.items()} | _null_outputs(outputs))
    except ValidationError as error:
        missing = ", ".join(str(problem["loc"][0]) for problem in error.errors())
        raise NotReadyError(f"`up` has not finished (no output {missing}); run `python -m atelier_infra up` again") from error


def _null_outputs(outputs: dict[str, Any]) -> dict[str, None]:
    # Terraform omits outputs whose value is null
    return {name: None for name in ("database", "config_bucket", "balancer", "schedule") if name not in outputs}
