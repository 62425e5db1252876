"""Terraform's task definitions run by Docker instead of Fargate: real images, settings, secrets and limits, and a PostgreSQL
that demands TLS as RDS does. Terraform creates them on moto; names inside the VPC are names on a Docker network."""

from __future__ import annotations

import json
import os
import re
import secrets as random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ..containers import docker, need_engine, until
from .cloud import REGION, Cloud, Folder
from .conftest import INFRA
from .deployment import Environment

pytestmark = [pytest.mark.full, pytest.mark.timeout(2400)]

SERVICES = ("tracking", "registry-api", "infer")
# A certificate authority and a server certificate, like Amazon's for RDS
AUTHORITY = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj '/CN=Amazon RDS' -keyout ca.key -out rds.pem"
SERVER = """
openssl req -newkey rsa:2048 -nodes -subj /CN=database -keyout server.key -out server.csr
echo "subjectAltName=DNS:$ADDRESS" > names
openssl x509 -req -in server.csr -CA rds.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.crt
chmod 644 server.key
"""
# Like rds.force_ssl, and RDS's first user, who owns the database and is not a superuser
LIKE_RDS = """
umask 077
cp /tmp/server.key /tmp/server.crt $PGDATA
echo 'ssl = on' >> $PGDATA/postgresql.conf
sed -i 's/^host \\+all \\+all \\+all /hostssl all all all /' $PGDATA/pg_hba.conf
psql -v ON_ERROR_STOP=1 -c "CREATE ROLE $MASTER LOGIN CREATEDB CREATEROLE PASSWORD '$MASTER_PASSWORD'"
psql -v ON_ERROR_STOP=1 -c "CREATE DATABASE $DATABASE OWNER $MASTER"
"""


def run(folder: Path, script: str, **variables: str) -> None:
    """Runs a shell script on this machine."""
    process = subprocess.run(["sh", "-ec", script], cwd=folder, env=os.environ | variables, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr


class Tasks:
    """Containers on their own network, created from task definitions."""

    def __init__(self, environment: Environment, folder: Path) -> None:
        self.environment, self.cloud, self.folder = environment, environment.cloud, folder
        self.network = f"atelier-tasks-{random.token_hex(4)}"
        self.variables = {service: self._variables(service) for service in SERVICES}
        self.ports: dict[str, int] = {}

    def name(self, service: str) -> str:
        return f"{self.network}-{service}"

    def definition(self, service: str) -> dict[str, Any]:
        ecs = self.cloud.client("ecs")
        return ecs.describe_task_definition(taskDefinition=f"atelier-{service}")["taskDefinition"]["containerDefinitions"][0]

    def _variables(self, service: str) -> dict[str, str]:
        """The environment variables that ECS would set, with secrets resolved."""
        definition, manager = self.definition(service), self.cloud.client("secretsmanager")
        values = {each["name"]: each["value"] for each in definition["environment"]}
        for each in definition["secrets"]:
            parts = each["valueFrom"].split(":")  # an ARN has seven, a member of a JSON object may follow
            text = manager.get_secret_value(SecretId=":".join(parts[:7]))["SecretString"]
            values[each["name"]] = json.loads(text)[parts[7]] if parts[7:] else text
        return values

    def start_database(self) -> None:
        tracking, script = self.variables["tracking"], self.folder / "like-rds.sh"
        script.write_text(LIKE_RDS)
        authority = self.environment.folder.path
        run(authority, SERVER, ADDRESS=tracking["DB_ENDPOINT"])
        master = {"POSTGRES_PASSWORD": random.token_hex(8), "MASTER": tracking["DB_USER"], "MASTER_PASSWORD": tracking["DB_PW"]}
        master |= {"DATABASE": tracking["DB_NAME"]}
        options = ["--network-alias", tracking["DB_ENDPOINT"], "--tmpfs", "/var/lib/postgresql/data"]
        options += [option for name, value in master.items() for option in ("--env", f"{name}={value}")]
        docker("create", "--name", self.name("database"), "--network", self.network, *options, "postgres:17")
        docker("cp", str(script), f"{self.name('database')}:/docker-entrypoint-initdb.d/like-rds.sh")
        for file in ("server.key", "server.crt"):
            docker("cp", str(authority / file), f"{self.name('database')}:/tmp/{file}")
        docker("start", self.name("database"))
        ready = ("exec", self.name("database"), "pg_isready", "--quiet", "--host=127.0.0.1")
        until("PostgreSQL", lambda: docker(*ready, check=False).returncode == 0)

    def start(self, service: str) -> None:
        definition, settings = self.definition(service), self.folder / f"{service}.env"
        settings.write_text("".join(f"{name}={value}\n" for name, value in self.variables[service].items()))
        [port] = [each["containerPort"] for each in definition["portMappings"]]
        options = ["--env-file", str(settings), "--memory", f"{definition['memory']}m", "--publish", f"127.0.0.1::{port}"]
        options += ["--network", self.network, "--network-alias", f"{service}.atelier.internal"]
        options += [f"--cap-drop={each}" for each in definition["linuxParameters"]["capabilities"]["drop"]]
        options += ["--init"] if definition["linuxParameters"]["initProcessEnabled"] else []
        entry, *words = [*definition.get("entryPoint", []), *definition.get("command", [])] or [""]
        options += ["--entrypoint", entry] if entry else []
        docker("run", "--detach", "--name", self.name(service), *options, f"atelier-tasks/{service}", *words)
        output = docker("port", self.name(service), str(port)).stdout
        self.ports[service] = int(output.splitlines()[0].rpartition(":")[2])
        kind, *check = definition["healthCheck"]["command"]
        assert kind == "CMD"
        until(f"{service} is healthy", lambda: self.exec(service, *check, check=False).returncode == 0, pause_s=2)

    def exec(self, service: str, *command: str, check: bool = True) -> Any:
        return docker("exec", self.name(service), *command, check=check)

    def query(self, statement: str) -> list[list[str]]:
        words = (
            "psql",
            "--username=postgres",
            f"--dbname={self.variables['tracking']['DB_NAME']}",
            "--no-align",
            "--tuples-only",
        )
        return [line.split("|") for line in self.exec("database", *words, "--command", statement).stdout.splitlines()]

    def request(self, service: str, method: str, path: str, **more: Any) -> httpx.Response:
        """Sends a request with the credentials of the person for whom `init` created a login."""
        lines = (self.environment.folder.path / "secrets" / "logins").read_text().splitlines()
        [secret] = [words[3] for words in map(str.split, lines) if words[:3] == [service, "admin", "ana"]]
        login: Any = {"auth": ("ana", secret)} if service == "tracking" else {"headers": {"Authorization": f"Bearer {secret}"}}
        return httpx.request(method, f"http://127.0.0.1:{self.ports[service]}{path}", timeout=120, **login, **more)

    def remove(self) -> None:
        docker("rm", "--force", "--volumes", *(self.name(each) for each in (*SERVICES, "database")), check=False)
        docker("network", "rm", self.network, check=False)
        docker("image", "rm", *(f"atelier-tasks/{each}" for each in SERVICES), check=False)


@pytest.fixture(scope="module")
def tasks(initialised: Path, moto: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tasks]:
    need_engine()
    for service in SERVICES:
        docker("build", "--quiet", "--tag", f"atelier-tasks/{service}", "--file", f"services/{service}/Dockerfile", ".")
    folder, cloud = Folder(tmp_path_factory.mktemp("tasks") / "infra", moto), Cloud(moto)
    shutil.copytree(initialised, folder.path, symlinks=True)
    cloud.reset()
    environment = Environment(folder, cloud)
    both = [word for service in SERVICES[1:] for word in ("--service", service)]
    environment.run("init", "--region", REGION, "--allow", "203.0.113.7", "--user", "ana", *both)
    run(folder.path, AUTHORITY)
    environment.edit('secrets = "secrets-manager"', 'secrets = "secrets-manager"\ndatabase_ca_file = "rds.pem"')
    environment.run("up", "--yes")
    tasks = Tasks(environment, tmp_path_factory.mktemp("settings"))
    try:
        docker("network", "create", tasks.network)
        tasks.start_database()
        for service in SERVICES:
            tasks.start(service)
        yield tasks
    finally:
        tasks.remove()
        cloud.reset()


def test_services_are_ready(tasks: Tasks) -> None:
    assert tasks.request("registry-api", "GET", "/readyz").json() == {"status": "ready"}
    assert tasks.request("infer", "GET", "/readyz").status_code == 200
    assert httpx.get(f"http://127.0.0.1:{tasks.ports['tracking']}/api/2.0/mlflow/experiments/list").status_code == 401


def test_connections_to_the_database_use_tls(tasks: Tasks) -> None:
    user = tasks.variables["tracking"]["DB_USER"]
    rows = tasks.query(
        f"SELECT DISTINCT client_addr, ssl FROM pg_stat_activity JOIN pg_stat_ssl USING (pid) WHERE usename = '{user}'"
    )
    assert len(rows) == 2 and {encrypted for _, encrypted in rows} == {"t"}
    url = "os.environ['ATELIER_REGISTRY_DATABASE_URL']"
    plain = f"import os, psycopg2; psycopg2.connect({url}.replace('verify-full', 'disable'))"
    refused = tasks.exec("registry-api", "python", "-c", plain, check=False)
    assert refused.returncode == 1 and "no encryption" in refused.stderr


def test_a_server_with_another_host_name_is_refused(tasks: Tasks) -> None:
    code = f"""if True:
        import os, socket, psycopg2
        name = {tasks.variables["tracking"]["DB_ENDPOINT"]!r}
        psycopg2.connect(os.environ["ATELIER_REGISTRY_DATABASE_URL"].replace(name, socket.gethostbyname(name)))"""
    refused = tasks.exec("registry-api", "python", "-c", code, check=False)
    assert refused.returncode == 1 and "does not match host name" in refused.stderr


def test_services_have_separate_schemas(tasks: Tasks) -> None:
    rows = tasks.query(
        "SELECT schemaname, count(*) FROM pg_tables WHERE schemaname IN ('public', 'atelier_registry') GROUP BY 1"
    )
    tables = {schema: int(count) for schema, count in rows}
    assert tables["public"] > 20 and tables["atelier_registry"] >= 3


@pytest.mark.parametrize(
    ("service", "address", "token"),
    [
        ("registry-api", "ATELIER_REGISTRY_INFER_URL", "ATELIER_REGISTRY_INFER_TOKEN"),
        ("infer", "ATELIER_INFER_EVENTS_URL", "ATELIER_INFER_REGISTRY_TOKEN"),
    ],
)
def test_the_apis_accept_each_others_tokens(tasks: Tasks, service: Any, address: Any, token: Any) -> None:
    script = f"""if True:
        import os, urllib.request as u
        request = u.Request(os.environ["{address}"] + "/models", headers={{"Authorization": "Bearer " + os.environ["{token}"]}})
        print(u.urlopen(request, timeout=60).status)"""
    assert tasks.exec(service, "python", "-c", script).stdout == "200\n"


def test_decisions_survive_a_new_task(tasks: Tasks) -> None:
    def create(path: Any, **body: Any) -> Any:
        response = tasks.request("tracking", "POST", f"/api/2.0/mlflow/{path}/create", json=body)
        assert response.status_code == 200, response.text
        return response.json()

    run = create("runs", experiment_id="0")["run"]["info"]
    create("registered-models", name="sketch")
    create("model-versions", name="sketch", source=f"{run['artifact_uri']}/model", run_id=run["run_id"])
    retired = tasks.request("registry-api", "POST", "/models/sketch/versions/1/retire", json={"reason": "blurred"})
    assert retired.json()["outcome"] == "done", retired.text
    before = tasks.request("registry-api", "GET", "/models/sketch/history").json()
    assert "blurred" in json.dumps(before)
    docker("rm", "--force", "--volumes", tasks.name("registry-api"))
    tasks.start("registry-api")
    assert tasks.request("registry-api", "GET", "/models/sketch/history").json() == before


def test_no_secret_is_in_a_log_or_in_the_arguments_of_a_process(tasks: Tasks) -> None:
    hidden = {"DB_PW", "PGPASSWORD", "MLFLOW_TRACKING_PASSWORD", "ATELIER_REGISTRY_INFER_TOKEN", "ATELIER_INFER_REGISTRY_TOKEN"}
    values = {value for variables in tasks.variables.values() for name, value in variables.items() if name in hidden}
    assert len(values) == 5  # one password of the database, a login for each API, a token for each
    for service in SERVICES:
        log = docker("logs", tasks.name(service))
        shown = log.stdout + log.stderr + docker("top", tasks.name(service), "-eo", "pid,args").stdout
        assert [value for value in values if value in shown] == []


def test_a_task_uses_no_more_memory_than_measured(tasks: Tasks) -> None:
    """infer is idle here; sizes.json has its memory with a base model."""
    for _ in range(100):
        assert tasks.request("registry-api", "GET", "/models/sketch/versions").status_code == 200
    sizes = json.loads((INFRA / "sizes.json").read_text())
    for service in SERVICES:
        usage = docker("stats", "--no-stream", "--format", "{{.MemUsage}}", tasks.name(service)).stdout
        number, unit = re.match(r"([\d.]+)([KMG])iB / ", usage).groups()
        assert float(number) * 1024.0 ** ("KMG".index(unit) - 1) <= sizes[service]["measured_mib"], f"{service}: {usage}"


def test_a_task_exits_on_sigterm(tasks: Tasks) -> None:
    for service in reversed(SERVICES):
        docker("stop", "--time", str(tasks.definition(service)["stopTimeout"]), tasks.name(service))
        code = docker("inspect", "--format", "{{.State.ExitCode}} {{.State.OOMKilled}}", tasks.name(service)).stdout
        assert code.split()[0] in ("0", "143"), (
            f"{service}: {code}{os.linesep}{docker('logs', tasks.name(service)).stdout[-2000:]}"
        )
