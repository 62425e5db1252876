"""A style from its training to a picture, with all services: recommended values, edits of them, and what a picture says."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from atelier_contracts import names
from atelier_embedded import workspace as workspace_module
from atelier_embedded.process_manager import ProcessManager, running_services
from atelier_embedded.workspace import MODEL, Workspace
from atelier_trainer.synthetic.scenes.dataset import write_imagefolder
from PIL import Image

pytestmark = pytest.mark.timeout(900)
PATIENCE_S = 60.0
OPEN = {"prompt": "a cat", "seed": 7}
STYLE = (
    "--title=Ink", "--trigger_words=sumi", "--licence=MIT", "--recommended_steps=3", "--recommended_scale=0.5",
    "--recommended_scheduler=ddim", "--recommended_guidance=2",
)  # fmt: skip


@dataclass
class Stack:
    """The services, and a version of a small base with recommended values."""

    workspace: Workspace
    services: ProcessManager
    version: int

    def call(self, service: str, method: str, path: str, role: str = "promoter", **options: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.workspace.secret(role)}"} | options.pop("headers", {})
        url = self.services.url(service) + path
        response = httpx.request(method, url, headers=headers, timeout=PATIENCE_S, **options)
        assert response.status_code < 300, response.text
        return response

    def generate(self, **fields: Any) -> bytes:
        return self.call("infer", "POST", "/generate", "reader", json=OPEN | fields).content

    def edit(self, style: dict[str, Any], reason: str) -> dict[str, Any]:
        """Edits the style, and waits until infer has read it."""
        body = {"reason": reason, "style": style}
        decision: dict[str, Any] = self.call("registry-api", "PATCH", f"/models/{MODEL}/style", json=body).json()
        end = time.monotonic() + PATIENCE_S
        while (metadata(self.generate()).get("recommended") or {}).get("decision") != decision["id"]:
            assert time.monotonic() < end, "infer did not read the edit"
            time.sleep(0.1)
        return decision


def metadata(png: bytes) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Image.open(io.BytesIO(png)).text[names.PNG_TEXT])  # type: ignore[attr-defined]
    return content


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, bundle_cache: Path, small_base: Path) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("styles")
    with pytest.MonkeyPatch.context() as patch:
        # services run the code of this checkout, wherever the packages are installed from
        inherited = (*workspace_module.INHERITED_VARIABLES, "PYTHONPATH")
        patch.setattr(workspace_module, "INHERITED_VARIABLES", inherited)
        made = Workspace(folder / "workspace")
        made.prepare()
        write_imagefolder(made.images, "sketch", 12, 1)
        with running_services(made) as services:
            flags = {
                "pretrained_model_name_or_path": small_base, "train_data_dir": made.images, "register": MODEL, "rank": 2,
                "max_train_steps": 2, "validation_samples": 2, "validation_prompt": "a cat", "num_validation_images": 1,
                "cache_dir": bundle_cache, "output_dir": folder / "out", "tracking_uri": services.url("tracking"),
                "result_file": made.result_file,
            }  # fmt: skip
            command = [
                sys.executable,
                "-m",
                "atelier_trainer",
                "train",
                *(f"--{name}={value}" for name, value in flags.items()),
            ]
            services.run([*command, *STYLE], made.environment(), "the training")
            yield Stack(made, services, int(json.loads(made.result_file.read_text())["version"]))


def test_recommended_values_reach_the_picture_and_edits_of_them_too(stack: Stack) -> None:
    promoted = stack.call(
        "registry-api", "POST", f"/models/{MODEL}/versions/{stack.version}/promote", json={"reason": "the first"}
    ).json()
    assert promoted["outcome"] == "done"
    end = time.monotonic() + PATIENCE_S
    while not stack.call("infer", "GET", "/models").json()["aliases"].get("champion", {}).get("serving_version"):
        assert time.monotonic() < end, "infer does not serve the champion"
        time.sleep(0.1)

    first = stack.generate()
    said = metadata(first)
    assert (said["steps"], said["scheduler"], said["guidance_scale"]) == (3, "ddim", 2.0)
    assert said["adapters"][0]["weight"] == 0.5
    fields = ["guidance_scale", "scale", "scheduler", "steps"]
    assert said["recommended"] == {"version": stack.version, "decision": None, "fields": fields}

    edited = stack.edit({"title": "Brush", "recommended": {"steps": 4}}, "sharper lines")
    second = metadata(stack.generate())
    assert (second["steps"], second["scheduler"]) == (4, "ddim")
    assert second["recommended"] == {"version": stack.version, "decision": edited["id"], "fields": fields}

    named = metadata(stack.generate(steps=2, scale=1.0, scheduler="euler", guidance_scale=5.0))
    assert (named["steps"], named["scheduler"], named["adapters"][0]["weight"]) == (2, "euler", 1.0)
    assert "recommended" not in named

    verified = stack.call("infer", "POST", "/verify", content=first, headers={"Content-Type": "image/png"}).json()
    assert verified["matches"], "the picture of before the edit can be made again"

    (listed,) = stack.call("infer", "GET", "/models").json()["adapters"]
    assert (listed["style"]["title"], listed["style"]["trigger_words"], listed["style"]["licence"]) == (
        "Brush",
        ["sumi"],
        "MIT",
    )
    previews = [
        stack.call("infer", "GET", listed["preview"]).content,
        stack.call("registry-api", "GET", f"/models/{MODEL}/versions/{stack.version}/preview").content,
    ]
    assert [Image.open(io.BytesIO(preview)).size for preview in previews] == [(16, 16)] * 2

    newest, oldest = stack.call("registry-api", "GET", f"/models/{MODEL}/history").json()["decisions"]
    assert (newest["action"], newest["reason"], newest["actor"]) == ("style", "sharper lines", "demo-promoter")
    assert (newest["style"]["before"]["title"], newest["style"]["after"]["title"]) == (None, "Brush")
    assert oldest["id"] == promoted["id"]
    database = {"ATELIER_REGISTRY_DATABASE_URL": f"sqlite:///{stack.workspace.decisions}"}
    command = [sys.executable, "-m", "atelier_registry", "verify", "--head", newest["chain_hash"]]
    chain = subprocess.run(command, env=os.environ | database, capture_output=True, text=True, check=False)
    assert chain.returncode == 0, chain.stdout + chain.stderr

    stack.call("registry-api", "PATCH", f"/models/{MODEL}/style", json={"reason": "as trained", "style": {"recommended": None}})
    end = time.monotonic() + PATIENCE_S
    while metadata(stack.generate())["steps"] != 3:
        assert time.monotonic() < end, "infer did not read that the edit was taken back"
        time.sleep(0.1)
