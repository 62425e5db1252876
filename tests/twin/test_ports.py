"""A port that somebody else has: one line before anything is started, and nothing that is left behind."""

from __future__ import annotations

import os
import socket
import subprocess

import pytest

from ..containers import ROOT, Project, docker

pytestmark = [pytest.mark.twin, pytest.mark.timeout(600)]


def test_make_up_names_the_port_and_the_setting_and_starts_nothing():
    project = Project("atelier-ports")
    project.remove()
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", int(project.settings["INFER_PORT"])))
        holder.listen()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        environment |= project.settings | {"COMPOSE_PROJECT_NAME": project.name}
        ended = subprocess.run(["make", "up"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode != 0
    assert f"port {project.settings['INFER_PORT']} of 127.0.0.1 is taken" in ended.stderr
    assert "set INFER_PORT to a free one" in ended.stderr and "Traceback" not in ended.stderr
    assert docker("ps", "--all", "--quiet", "--filter", f"label=com.docker.compose.project={project.name}").stdout == ""
    project.remove()


def test_opening_the_services_does_not_open_s3():
    project = Project("atelier-ports", {"TWIN_ADDRESS": "0.0.0.0"})
    told = project.compose("config", "--format", "json")
    assert told.count('"host_ip": "0.0.0.0"') == 3 and told.count('"host_ip": "127.0.0.1"') == 1
