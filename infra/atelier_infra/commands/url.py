"""`url`: where a service answers now."""

from __future__ import annotations

from atelier_infra.aws.client import Aws, translated
from atelier_infra.environment.stack import Service, Stack
from atelier_infra.errors import NotReadyError


def url(stack: Stack, service: Service, aws: Aws) -> str:
    """The service's address: its fixed name, or the public address of its task.

    Raises:
        NotReadyError: it does not run, or its task has no address yet.
    """
    if service.name:
        return f"https://{service.name}"
    ecs, ec2 = aws.client("ecs"), aws.client("ec2")
    with translated(aws.region):
        arns = ecs.list_tasks(cluster=stack.cluster, serviceName=service.service, desiredStatus="RUNNING")["taskArns"]
        tasks = ecs.describe_tasks(cluster=stack.cluster, tasks=arns)["tasks"] if arns else []
        # during a rollout two tasks run: the younger one stays
        tasks.sort(key=lambda task: str(task.get("startedAt", task.get("createdAt", ""))), reverse=True)
        details = [detail for task in tasks for each in task.get("attachments", []) for detail in each.get("details", [])]
        interfaces = [detail["value"] for detail in details if detail["name"] == "networkInterfaceId"]
        found = ec2.describe_network_interfaces(NetworkInterfaceIds=interfaces)["NetworkInterfaces"] if interfaces else []
    public = {each["NetworkInterfaceId"]: each.get("Association", {}).get("PublicIp") for each in found}
    address = next((public[each] for each in interfaces if public.get(each)), None)
    if not address:
        raise NotReadyError(
            f"{service.service} has no public address, because no task of it runs; run `python -m atelier_infra start`"
        )
    return f"http://{address}" if service.port == 80 else f"http://{address}:{service.port}"
