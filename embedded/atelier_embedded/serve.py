"""Runs the services on a demo's workspace until Ctrl-C."""

from __future__ import annotations

import time

from rich.console import Console

from atelier_embedded.errors import EmbeddedError
from atelier_embedded.process_manager import running_services
from atelier_embedded.workspace import MODEL, Workspace

CHECK_INTERVAL_S = 1.0


def serve(workspace: Workspace, console: Console) -> None:
    """Starts the services, prints their addresses and a request to try, and waits.

    Raises:
        EmbeddedError: the workspace is empty, or a service ended.
    """
    if not workspace.database.exists():
        raise EmbeddedError(f"{workspace.root} holds nothing to serve: run `make demo` first")
    workspace.prepare()
    with running_services(workspace) as services:
        for name in ("tracking", "registry-api", "infer"):
            console.print(f"{name:<13} {services.url(name)}", highlight=False)
        console.print(f"{'tokens':<13} {workspace.secrets_file}", highlight=False, soft_wrap=True)
        console.print("\ngenerate an image, in another terminal:", highlight=False)
        token = f'$(python3 -c \'import json; print(json.load(open("{workspace.secrets_file}"))["reader"])\')'
        command = (
            f'curl -sS {services.url("infer")}/generate -H "Authorization: Bearer {token}" '
            '-H \'Content-Type: application/json\' -d \'{"prompt": "a red car next to a tree", "seed": 1}\' -o car.png'
        )
        console.print("  " + command, highlight=False, soft_wrap=True, markup=False)
        console.print(f"\nserving the model {MODEL!r}; Ctrl-C stops everything", highlight=False)
        while True:
            services.check()
            time.sleep(CHECK_INTERVAL_S)
