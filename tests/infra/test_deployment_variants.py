"""Less common deployments on moto: an existing VPC, all options at once, a restore. Many minutes; `make test-full`."""

from __future__ import annotations

import json
import re

import pytest

from .cloud import Cloud, Folder
from .deployment import LOST_ON_FIRST_APPLY, Environment

pytestmark = [pytest.mark.full, pytest.mark.timeout(1800)]

# An attribute of services behind a load balancer that moto never stores.
NEVER_STORED = {("aws_ecs_service", "health_check_grace_period_seconds")}


def assert_converges(environment: Environment) -> None:
    """After the first `up` only known differences are left, after the second none."""
    environment.run("up", "--yes")
    assert environment.differences() <= LOST_ON_FIRST_APPLY | NEVER_STORED
    environment.run("up", "--yes")
    assert environment.differences() <= NEVER_STORED


def assert_nothing_left(cloud: Cloud, folder: Folder) -> None:
    assert folder.terraform("state", "list").stdout == ""
    clusters = cloud.client("ecs").describe_clusters(clusters=["atelier"])["clusters"]
    assert [each for each in clusters if each["status"] == "ACTIVE"] == []
    assert cloud.client("rds").describe_db_instances()["DBInstances"] == []
    assert cloud.client("s3").list_buckets()["Buckets"] == []


def environment_of(cloud: Cloud, service: str) -> dict[str, str]:
    response = cloud.client("ecs").describe_task_definition(taskDefinition=f"atelier-{service}")
    container = response["taskDefinition"]["containerDefinitions"][0]
    return {variable["name"]: variable["value"] for variable in container["environment"]}


def test_an_existing_vpc_is_used_and_not_removed(folder: Folder, cloud: Cloud) -> None:
    ec2 = cloud.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="172.30.0.0/16")["Vpc"]["VpcId"]
    subnets = [
        ec2.create_subnet(VpcId=vpc, CidrBlock=f"172.30.{number}.0/24", AvailabilityZone=f"eu-central-1{'ab'[number % 2]}")[
            "Subnet"
        ]["SubnetId"]
        for number in range(3)
    ]
    environment = Environment(folder, cloud)
    network = ["--vpc", vpc, "--public-subnet", subnets[0], "--private-subnet", subnets[1], "--private-subnet", subnets[2]]
    environment.run("init", "--region", "eu-central-1", "--allow", "203.0.113.7", "--user", "ana", *network)
    assert_converges(environment)
    [database] = cloud.client("rds").describe_db_instances()["DBInstances"]
    assert {each["SubnetIdentifier"] for each in database["DBSubnetGroup"]["Subnets"]} == set(subnets[1:])
    [service] = cloud.client("ecs").describe_services(cluster="atelier", services=["tracking"])["services"]
    assert service["networkConfiguration"]["awsvpcConfiguration"]["subnets"] == [subnets[0]]
    environment.run("destroy", "--data", "--yes")
    assert_nothing_left(cloud, folder)
    assert vpc in [each["VpcId"] for each in ec2.describe_vpcs()["Vpcs"]]
    assert {each["SubnetId"] for each in ec2.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["Subnets"]} == set(
        subnets
    )


def test_all_services_with_a_load_balancer_and_a_schedule(folder: Folder, cloud: Cloud) -> None:
    zone = (
        cloud.client("route53")
        .create_hosted_zone(Name="example.org", CallerReference="1")["HostedZone"]["Id"]
        .rpartition("/")[2]
    )
    environment = Environment(folder, cloud)
    flags = ["--service", "registry-api", "--service", "infer", "--domain", "draw.example.org", "--zone-id", zone]
    clock = ["--start", "08:00", "--stop", "19:00", "--timezone", "Europe/Berlin"]
    environment.run("init", "--region", "eu-central-1", "--allow", "203.0.113.7", "--user", "ana", *flags, *clock)
    assert_converges(environment)

    balancers = cloud.client("elbv2")
    [balancer] = balancers.describe_load_balancers()["LoadBalancers"]
    listeners = {
        each["Port"]: each for each in balancers.describe_listeners(LoadBalancerArn=balancer["LoadBalancerArn"])["Listeners"]
    }
    assert listeners[80]["DefaultActions"][0]["RedirectConfig"]["Protocol"] == "HTTPS"
    assert listeners[443]["Certificates"][0]["CertificateArn"].startswith("arn:aws:acm:eu-central-1:")
    records = cloud.client("route53").list_resource_record_sets(HostedZoneId=zone)["ResourceRecordSets"]
    names = {each["Name"].rstrip(".") for each in records if each["Type"] == "A"}
    assert names == {"draw.example.org", "registry-api.draw.example.org", "infer.draw.example.org"}

    groups = {
        each["GroupName"].rsplit("-", 1)[0]: each for each in cloud.client("ec2").describe_security_groups()["SecurityGroups"]
    }
    for name in ("tracking", "registry-api", "infer"):
        assert not any(rule["IpRanges"] for rule in groups[f"atelier-{name}"]["IpPermissions"])
    [database] = groups["atelier-database"]["IpPermissions"]
    assert {each["GroupId"] for each in database["UserIdGroupPairs"]} == {
        groups[f"atelier-{name}"]["GroupId"] for name in ("tracking", "registry-api")
    }

    schedules = cloud.client("scheduler")
    created = {each["Name"]: schedules.get_schedule(Name=each["Name"]) for each in schedules.list_schedules()["Schedules"]}
    assert created["atelier-database-start"]["ScheduleExpression"] == "cron(45 7 ? * MON-FRI *)"
    assert created["atelier-database-stop"]["ScheduleExpression"] == "cron(5 19 * * ? *)"
    assert json.loads(created["atelier-infer-stop"]["Target"]["Input"]) == {
        "Cluster": "atelier",
        "Service": "infer",
        "DesiredCount": 0,
    }

    tracking, registry, infer = (environment_of(cloud, each) for each in ("tracking", "registry-api", "infer"))
    assert (tracking["PUBLIC_URL"], tracking["REGISTRY_USER"]) == ("https://draw.example.org", "registry-api")
    assert registry["ATELIER_REGISTRY_DATABASE_URL"] == (
        f"postgresql://atelier@{tracking['DB_ENDPOINT']}:5432/{tracking['DB_NAME']}?sslmode=require"
    )
    assert registry["ATELIER_REGISTRY_INFER_URL"] == "http://infer.atelier.internal:8002"
    assert infer["ATELIER_INFER_EVENTS_URL"] == "http://registry-api.atelier.internal:8001"
    assert infer["ATELIER_INFER_REGISTRY_URL"] == "https://registry-api.draw.example.org"
    names = cloud.client("servicediscovery").list_services()["Services"]
    assert {each["Name"] for each in names} == {"tracking", "registry-api", "infer"}
    assert environment.run("url", "infer").strip() == "https://infer.draw.example.org"
    assert "infer" in environment.run("status")
    environment.run("destroy", "--data", "--yes")
    assert_nothing_left(cloud, folder)


def test_restore_replaces_artifacts_and_database(folder: Folder, cloud: Cloud) -> None:
    environment, s3, rds = Environment(folder, cloud), cloud.client("s3"), cloud.client("rds")
    environment.run("init", "--region", "eu-central-1", "--allow", "203.0.113.7", "--user", "ana")
    environment.run("up", "--yes")
    environment.run("up", "--yes")
    bucket = "atelier-artifacts-123456789012-eu-central-1"
    for key in ("1/a/model", "1/a/notes", "1/a/kept"):
        s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
    [name] = re.findall(r"atelier_infra restore (\S+)", environment.run("backup"))
    s3.delete_object(Bucket=bucket, Key="1/a/model")
    s3.put_object(Bucket=bucket, Key="1/a/notes", Body=b"overwritten")
    s3.put_object(Bucket=bucket, Key="1/b/later", Body=b"later")
    out = environment.run("restore", name, "--yes")
    assert "restored 2 of 3 artifacts" in out
    for key in ("1/a/model", "1/a/notes", "1/a/kept"):
        assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == key.encode()
    assert s3.get_object(Bucket=bucket, Key="1/b/later")["Body"].read() == b"later"
    [database] = rds.describe_db_instances()["DBInstances"]
    assert (database["DBInstanceIdentifier"], database["DeletionProtection"]) == ("atelier", True)
    snapshots = {each["DBSnapshotIdentifier"] for each in rds.describe_db_snapshots(SnapshotType="manual")["DBSnapshots"]}
    [kept] = [snapshot for snapshot in snapshots if snapshot.startswith("atelier-kept-")]
    assert f"the previous database is in snapshot {kept}" in out
    assert environment.differences() == set()
