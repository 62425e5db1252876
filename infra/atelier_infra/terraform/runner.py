"""Runs terraform with machine-readable output, shows progress, and explains failures."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from atelier_infra.aws.client import LOGIN
from atelier_infra.errors import InputError, Interrupted, ToolError
from atelier_infra.subprocess_runner import missing_program

NAME_TAKEN = r"BucketAlreadyExists|BucketAlreadyOwnedByYou|AlreadyExists|already exists|already in use|is not unique|Duplicate"

# Pattern of an error of terraform or AWS → remedy. The first match is used.
REMEDIES = (
    (r"No valid credential sources|failed to refresh cached credentials|no EC2 IMDS role", LOGIN),
    (r"ExpiredToken|token included in the request is expired", f"the AWS session has expired; {LOGIN}"),
    (
        r"InvalidClientTokenId|security token included in the request is invalid",
        f"check that the region is enabled for the account; if it is, {LOGIN}",
    ),
    (
        r"scheduled for deletion",
        "a secret of this name is scheduled for deletion: choose another `name` in terraform.tfvars, or restore the secret "
        "with `aws secretsmanager restore-secret --secret-id …` and adopt it with an import block",
    ),
    (
        NAME_TAKEN,
        "the name is taken: choose another `name` in terraform.tfvars. If the resource is yours, created by hand or by an "
        "interrupted run, let Terraform adopt it (docs/how-to/deploy-to-aws.md)",
    ),
    (
        r"state lock|Error acquiring the state",
        "another run has locked the state, or was killed: wait for it, or run `terraform force-unlock ID` in infra/",
    ),
    (r"no such host|dial tcp|could not resolve", "check the region in terraform.tfvars and the network"),
    (
        r"AccessDenied|UnauthorizedOperation|not authorized to perform",
        "these credentials lack a permission: request it, or set AWS_PROFILE to another profile",
    ),
)


class Terraform:
    def __init__(self, folder: Path, console: Console, secrets: Mapping[str, str]) -> None:
        """Checks the folder and prepares the environment of all runs.

        Args:
            folder: folder of main.tf, the state and terraform.tfvars.
            console: for progress.
            secrets: Terraform variables passed by environment, because arguments are visible to every process.

        Raises:
            InputError: the folder has no main.tf.
        """
        if not (folder / "main.tf").is_file():
            raise InputError(f"--folder must be the folder of Atelier's main.tf; received {folder}")
        self.folder, self._console = folder, console
        self._environment = (
            os.environ | {f"TF_VAR_{name}": value for name, value in secrets.items()} | {"TF_IN_AUTOMATION": "1"}
        )

    def set_variable_secret(self, name: str, secret: str) -> None:
        self._environment[f"TF_VAR_{name}"] = secret

    def init(self) -> None:
        with self._console.status("terraform init"):
            process = self._call(["init", "-input=false", "-no-color"])
        if process.returncode:
            raise ToolError(error_message("terraform init", process.stderr.strip() or process.stdout.strip()))

    def plan(
        self, out: Path, variables: Mapping[str, str], *, destroy: bool = False, replace: str | None = None
    ) -> dict[str, Any]:
        """Writes a plan file, and returns the plan as JSON.

        Args:
            out: path of the plan file.
            variables: Terraform variables for this plan.
            destroy: plan to remove everything.
            replace: address of a resource to recreate even if it has not changed.

        Raises:
            ToolError: terraform is missing or failed.
        """
        arguments = ["plan", "-json", "-input=false", f"-out={out}", *(["-destroy"] if destroy else [])]
        arguments += [f"-replace={replace}"] if replace else []
        self._stream([*arguments, *_flags(variables)], "planning")
        process = self._call(["show", "-json", str(out)])
        if process.returncode:
            raise ToolError(error_message("terraform show", process.stderr.strip()))
        plan: dict[str, Any] = json.loads(process.stdout)
        return plan

    def apply(self, plan: Path) -> None:
        self._stream(["apply", "-json", "-input=false", str(plan)], "applying")

    def untaint(self, address: str) -> None:
        """Keeps a resource from being replaced because a run was interrupted while it created it."""
        process = self._call(["untaint", "-no-color", address])
        if process.returncode:
            raise ToolError(error_message("terraform untaint", process.stderr.strip()))

    def outputs(self) -> dict[str, Any]:
        """Terraform's outputs; empty before the first apply."""
        with self._console.status("reading terraform's outputs"):
            process = self._call(["output", "-json"])
        if process.returncode:
            if re.search(r"init|[Bb]ackend", process.stderr):
                self.init()
                process = self._call(["output", "-json"])
            if process.returncode:
                raise ToolError(error_message("terraform output", process.stderr.strip()))
        outputs: dict[str, Any] = json.loads(process.stdout or "{}")
        return outputs

    def _call(self, arguments: list[str]) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                ["terraform", *arguments], cwd=self.folder, env=self._environment, capture_output=True, text=True, check=False
            )
        except FileNotFoundError:
            raise missing_program("terraform") from None

    def _stream(self, arguments: list[str], description: str) -> None:
        """Runs a command that prints JSON lines.

        Raises:
            Interrupted: Ctrl-C was pressed; terraform finished what it had begun and wrote its state.
            ToolError: terraform failed; the message has its errors and the remedy.
        """
        try:
            process = subprocess.Popen(
                ["terraform", *arguments],
                cwd=self.folder,
                env=self._environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,  # so that Ctrl-C reaches terraform once, through us: a second one aborts it
            )
        except FileNotFoundError:
            raise missing_program("terraform") from None
        interrupted = False

        def interrupt(_signal: int, _frame: FrameType | None) -> None:
            nonlocal interrupted
            if not interrupted:
                interrupted = True
                process.send_signal(signal.SIGINT)
                self._console.print(
                    "\ninterrupted: terraform finishes what it has begun and writes its state; this can take a minute"
                )

        previous_handlers = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            with process:
                errors = self._show_progress(process.stdout or iter(()), description)
        finally:
            for number, handler in previous_handlers.items():
                signal.signal(number, handler)
        if interrupted:
            raise Interrupted("interrupted; finished changes are in the state: run the same command again to continue")
        if process.returncode:
            raise ToolError(
                error_message(
                    f"terraform {arguments[0]}", "\n".join(dict.fromkeys(errors)) or f"exit code {process.returncode}"
                )
            )

    def _show_progress(self, lines: Iterator[str] | Any, description: str) -> list[str]:
        """Prints finished changes, and returns the errors."""
        errors, done = [], 0
        with self._console.status(description) as status:
            for line in lines:
                try:
                    event = json.loads(line)
                except ValueError:
                    errors.append(line.strip())
                    continue
                resource = event.get("hook", {}).get("resource", {}).get("addr", "")
                if event.get("type") == "diagnostic" and event["diagnostic"]["severity"] == "error":
                    errors.append(_format_diagnostic(event["diagnostic"]))
                elif event.get("type") == "apply_complete" and event["hook"]["action"] != "read":
                    done += 1
                    self._console.print(f"[green]✓[/] {event['hook']['action']:7} {resource}", highlight=False, markup=True)
                elif event.get("type") in ("apply_start", "apply_progress", "refresh_start"):
                    status.update(f"{description}  [dim]{done} done, {str(resource).replace('[', '(').replace(']', ')')}[/]")
        return errors


def error_message(command: str, output: str) -> str:
    """Terraform's output and, if the cause is known, the remedy."""
    output = "\n".join(f"    {line}" for line in output.splitlines() if line.strip())
    remedy = next((remedy for pattern, remedy in REMEDIES if re.search(pattern, output)), None)
    return f"{command} failed:\n{output}" + (f"\n{remedy}" if remedy else "")


def _format_diagnostic(diagnostic: dict[str, Any]) -> str:
    """One error; if a resource of the same name exists, with the command that adopts it."""
    message = ": ".join(filter(None, (diagnostic["summary"], diagnostic.get("detail"))))
    name = re.search(r"creating [^(]*\(([^)\s]+)\)", message)
    if re.search(NAME_TAKEN, message) and name and diagnostic.get("address"):
        message += f"\nto adopt it, if it is yours: terraform import '{diagnostic['address']}' {name[1]}"
    return message


def _flags(variables: Mapping[str, str]) -> list[str]:
    return [f"-var={name}={value}" for name, value in variables.items()]
