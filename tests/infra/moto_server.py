"""moto as a process of its own, with what Terraform and the command need to go on.

Five things differ from plain moto. Requests count as sent over TLS: moto ignores the condition of a policy that refuses
everything else, and would refuse everything. A service has as many tasks as it should, each with a public address, and its
rollouts complete: moto starts no tasks for a service. A task with a command of its own has ended well at the first look. A
database that is started or stopped is so at the third look, as in AWS, not at once. A database's parameter that was set says
that a user did; without that Terraform sets it again for ever.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from moto.ec2.models import ec2_backends
from moto.ec2.utils import random_public_ip
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


def services_run_tasks() -> None:
    plain_update, plain_list = EC2ContainerServiceBackend.update_service, EC2ContainerServiceBackend.list_tasks

    def update_service(self: EC2ContainerServiceBackend, properties: dict[str, Any]) -> Service:
        service = plain_update(self, properties)
        cluster, group = service.cluster_name, f"service:{service.name}"
        network = ec2_backends[self.account_id][self.region_name]
        for arn, task in list(self.tasks.get(cluster, {}).items()):
            if task.group == group:
                del self.tasks[cluster][arn]
                network.delete_network_interface(interface_of(task))
        if service.desired_count:
            placed = service.network_configuration
            count, wanted = service.desired_count, service.task_definition
            tasks = self.run_task(cluster, wanted, count, None, "ecs-svc", None, "FARGATE", placed, group)
            for task in tasks:
                network.get_network_interface(interface_of(task)).public_ip = random_public_ip()
        for deployment in service.deployments:
            deployment |= {
                "taskDefinition": service.task_definition,
                "desiredCount": service.desired_count,
                "runningCount": service.desired_count,
                "pendingCount": 0,
                "rolloutState": "COMPLETED",
            }
        return service

    def list_tasks(self: EC2ContainerServiceBackend, *filters: Any) -> list[Any]:
        found, service_name = plain_list(self, *filters), filters[4]
        return [task for task in found if task.group == f"service:{service_name}"] if service_name else found

    EC2ContainerServiceBackend.update_service, EC2ContainerServiceBackend.list_tasks = update_service, list_tasks


def interface_of(task: Any) -> str:
    return str(next(detail["value"] for detail in task.attachments[0]["details"] if detail["name"] == "networkInterfaceId"))


def one_off_tasks_end() -> None:
    plain = EC2ContainerServiceBackend.describe_tasks

    def describe_tasks(self: EC2ContainerServiceBackend, cluster_str: str, tasks: list[str]) -> list[Any]:
        found = plain(self, cluster_str, tasks)
        for task in found:
            if task.overrides.get("containerOverrides"):
                task.last_status, task.containers[0].exit_code = "STOPPED", 0
        return found

    EC2ContainerServiceBackend.describe_tasks = describe_tasks


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
    services_run_tasks()
    one_off_tasks_end()
    databases_take_time()
    parameters_have_a_source()
    main(["-H", "127.0.0.1", "-p", sys.argv[1]])
