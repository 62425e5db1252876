"""A port that is in use stops `make up` with one message before anything starts."""

from __future__ import annotations

import os
import socket
import subprocess

import pytest

from ..containers import ROOT, Project, docker

pytestmark = [pytest.mark.twin, pytest.mark.timeout(600)]


def test_make_up_with_a_used_port_names_its_setting_and_starts_nothing() -> None:
    project = Project("atelier-ports")
    project.remove()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", int(project.settings["INFER_PORT"])))
        listener.listen()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        environment |= project.settings | {"COMPOSE_PROJECT_NAME": project.name}
        process = subprocess.run(["make", "up"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert process.returncode != 0
    assert f"port {project.settings['INFER_PORT']} of 127.0.0.1 is taken" in process.stderr
    assert "set INFER_PORT to a free port" in process.stderr and "Traceback" not in process.stderr
    assert docker("ps", "--all", "--quiet", "--filter", f"label=com.docker.compose.project={project.name}").stdout == ""
    project.remove()


def test_publishing_the_services_does_not_publish_s3() -> None:
    project = Project("atelier-ports", {"TWIN_ADDRESS": "0.0.0.0"})
    config = project.compose("config", "--format", "json")
    assert config.count('"host_ip": "0.0.0.0"') == 3 and config.count('"host_ip": "127.0.0.1"') == 1
