"""moto as a separate process, with five patches that Terraform and the command line need.

1. Requests count as sent over TLS: moto ignores conditions of policies, so that a TLS-only policy would deny everything.
2. Services have their desired number of tasks, each with a public address, and deployments complete: moto starts no tasks.
3. Tasks with a command have exited with 0 at the first poll.
4. A database is started or stopped at the third poll, not at once, as on AWS.
5. Parameters of a database parameter group have the source "user"; otherwise each plan changes them.
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


def treat_requests_as_tls() -> None:
    original = FakeBucket.get_permission

    def get_permission(self: FakeBucket, action: str, resource: str) -> Any:
        policy_text = self.policy
        if policy_text is not None:
            policy = json.loads(policy_text)
            insecure = {"Bool": {"aws:SecureTransport": "false"}}
            policy["Statement"] = [each for each in policy["Statement"] if each.get("Condition") != insecure]
            self.policy = json.dumps(policy).encode() if policy["Statement"] else None
        try:
            return original(self, action, resource)
        finally:
            self.policy = policy_text

    FakeBucket.get_permission = get_permission


def run_tasks_of_services() -> None:
    original_update, original_list = EC2ContainerServiceBackend.update_service, EC2ContainerServiceBackend.list_tasks

    def update_service(self: EC2ContainerServiceBackend, properties: dict[str, Any]) -> Service:
        service = original_update(self, properties)
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
        found, service_name = original_list(self, *filters), filters[4]
        return [task for task in found if task.group == f"service:{service_name}"] if service_name else found

    EC2ContainerServiceBackend.update_service, EC2ContainerServiceBackend.list_tasks = update_service, list_tasks  # type: ignore[assignment]


def interface_of(task: Any) -> str:
    return str(next(detail["value"] for detail in task.attachments[0]["details"] if detail["name"] == "networkInterfaceId"))


def complete_one_off_tasks() -> None:
    original = EC2ContainerServiceBackend.describe_tasks

    def describe_tasks(self: EC2ContainerServiceBackend, cluster_str: str, tasks: list[str]) -> list[Any]:
        found = original(self, cluster_str, tasks)
        for task in found:
            if task.overrides.get("containerOverrides"):
                task.last_status, task.containers[0].exit_code = "STOPPED", 0  # type: ignore[attr-defined]
        return found

    EC2ContainerServiceBackend.describe_tasks = describe_tasks


def delay_database_changes() -> None:
    polls = 2
    start, stop, describe = RDSBackend.start_db_instance, RDSBackend.stop_db_instance, RDSBackend.describe_db_instances

    def delayed(call: Any, meanwhile: str) -> Any:
        def change(self: RDSBackend, db_instance_identifier: str, *more: Any) -> DBInstance:
            instance = call(self, db_instance_identifier, *more)
            instance.atelier_status, instance.status, instance.atelier_polls = instance.status, meanwhile, polls
            return instance

        return change

    def describe_db_instances(self: RDSBackend, *args: Any, **kwargs: Any) -> list[DBInstance]:
        instances = describe(self, *args, **kwargs)
        for instance in instances:
            if getattr(instance, "atelier_status", None):
                instance.atelier_polls -= 1  # type: ignore[attr-defined]
                if instance.atelier_polls < 0:  # type: ignore[attr-defined]
                    instance.status, instance.atelier_status = instance.atelier_status, None  # type: ignore[attr-defined]
        return instances

    RDSBackend.start_db_instance, RDSBackend.stop_db_instance = delayed(start, "starting"), delayed(stop, "stopping")
    RDSBackend.describe_db_instances = describe_db_instances


def set_parameter_source() -> None:
    original = DBParameterGroup.update_parameters

    def update_parameters(self: DBParameterGroup, new_parameters: Any) -> None:
        original(self, [each | {"Source": "user"} for each in new_parameters])

    DBParameterGroup.update_parameters = update_parameters


if __name__ == "__main__":
    treat_requests_as_tls()
    run_tasks_of_services()
    complete_one_off_tasks()
    delay_database_changes()
    set_parameter_source()
    main(["-H", "127.0.0.1", "-p", sys.argv[1]])
