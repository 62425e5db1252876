"""moto as a process of its own, with what Terraform and the command need to go on.

Four things differ from plain moto. Requests count as sent over TLS: moto ignores the condition of a policy that refuses
everything else, and would refuse everything. A service's rollout completes when its count or task definition is changed:
moto starts no tasks. A database that is started or stopped is so at the third look, as in AWS, not at once. A
database's parameter that was set says that a user did; without that Terraform sets it again for ever.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from moto.ecs.models import EC2ContainerServiceBackend, Service
from moto.rds.models import DBInstance, DBParameterGroup, RDSBackend
from moto.s3.models import FakeBucket
from moto.server import main


def over_tls() -> None:
    plain = FakeBucket.get_permission

    def get_permission(self: FakeBucket, action: str, resource: str) -> Any:
        kept = self.policy
        if kept is not None:
            policy = json.loads(kept)
            insecure = {"Bool": {"aws:SecureTransport": "false"}}
            policy["Statement"] = [each for each in policy["Statement"] if each.get("Condition") != insecure]
            self.policy = json.dumps(policy).encode() if policy["Statement"] else None
        try:
            return plain(self, action, resource)
        finally:
            self.policy = kept

    FakeBucket.get_permission = get_permission


def rollouts_complete() -> None:
    plain = EC2ContainerServiceBackend.update_service

    def update_service(self: EC2ContainerServiceBackend, properties: dict[str, Any]) -> Service:
        service = plain(self, properties)
        for deployment in service.deployments:
            deployment |= {
                "taskDefinition": service.task_definition,
                "desiredCount": service.desired_count,
                "runningCount": service.desired_count,
                "pendingCount": 0,
                "rolloutState": "COMPLETED",
            }
        return service

    EC2ContainerServiceBackend.update_service = update_service


def databases_take_time() -> None:
    looks = 2
    start, stop, describe = RDSBackend.start_db_instance, RDSBackend.stop_db_instance, RDSBackend.describe_db_instances

    def later(call: Any, meanwhile: str) -> Any:
        def change(self: RDSBackend, db_instance_identifier: str, *more: Any) -> DBInstance:
            instance = call(self, db_instance_identifier, *more)
            instance.atelier_end, instance.status, instance.atelier_looks = instance.status, meanwhile, looks
            return instance

        return change

    def describe_db_instances(self: RDSBackend, *args: Any, **kwargs: Any) -> list[DBInstance]:
        instances = describe(self, *args, **kwargs)
        for instance in instances:
            if getattr(instance, "atelier_end", None):
                instance.atelier_looks -= 1
                if instance.atelier_looks < 0:
                    instance.status, instance.atelier_end = instance.atelier_end, None
        return instances

    RDSBackend.start_db_instance, RDSBackend.stop_db_instance = later(start, "starting"), later(stop, "stopping")
    RDSBackend.describe_db_instances = describe_db_instances


def parameters_have_a_source() -> None:
    plain = DBParameterGroup.update_parameters

    def update_parameters(self: DBParameterGroup, new_parameters: Any) -> None:
        plain(self, [each | {"Source": "user"} for each in new_parameters])

    DBParameterGroup.update_parameters = update_parameters


if __name__ == "__main__":
    over_tls()
    rollouts_complete()
    databases_take_time()
    parameters_have_a_source()
    main(["-H", "127.0.0.1", "-p", sys.argv[1]])
