"""`url`: the current URL of a service."""

from __future__ import annotations

from atelier_infra.aws.client import Aws, translate_errors
from atelier_infra.environment.stack import Service, Stack
from atelier_infra.errors import NotReadyError


def url(stack: Stack, service: Service, aws: Aws) -> str:
    """The service's domain name, or the public address of its newest task.

    Raises:
        NotReadyError: no task is running, or the task has no address yet.
    """
    if service.name:
        return f"https://{service.name}"
    ecs, ec2 = aws.client("ecs"), aws.client("ec2")
    with translate_errors(aws.region):
        arns = ecs.list_tasks(cluster=stack.cluster, serviceName=service.service, desiredStatus="RUNNING")["taskArns"]
        tasks = ecs.describe_tasks(cluster=stack.cluster, tasks=arns)["tasks"] if arns else []
        # during a deployment two tasks run: the newer one stays
        tasks.sort(key=lambda task: str(task.get("startedAt", task.get("createdAt", ""))), reverse=True)
        attachments = [attachment for task in tasks for attachment in task.get("attachments", [])]
        details = [detail for attachment in attachments for detail in attachment.get("details", [])]
        ids = [detail["value"] for detail in details if detail["name"] == "networkInterfaceId"]
        interfaces = ec2.describe_network_interfaces(NetworkInterfaceIds=ids)["NetworkInterfaces"] if ids else []
    addresses = {each["NetworkInterfaceId"]: each.get("Association", {}).get("PublicIp") for each in interfaces}
    address = next((addresses[id_] for id_ in ids if addresses.get(id_)), None)
    if not address:
        raise NotReadyError(
            f"{service.service} has no public address because none of its tasks is running; run `python -m atelier_infra start`"
        )
    return f"http://{address}" if service.port == 80 else f"http://{address}:{service.port}"
