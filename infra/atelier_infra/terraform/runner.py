"""Runs terraform with its machine-readable output, shows where it is, and says in one message why it failed."""

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
from atelier_infra.errors import AnswerError, Interrupted, ToolError
from atelier_infra.subprocess_runner import missing

TAKEN = r"BucketAlreadyExists|BucketAlreadyOwnedByYou|AlreadyExists|already exists|already in use|is not unique|Duplicate"

# What terraform or AWS says, and what to do about it. The first that matches counts.
KNOWN = (
    (r"No valid credential sources|failed to refresh cached credentials|no EC2 IMDS role", LOGIN),
    (r"ExpiredToken|token included in the request is expired", f"the AWS session has expired; {LOGIN}"),
    (
        r"InvalidClientTokenId|security token included in the request is invalid",
        f"is the region enabled for the account? If so, {LOGIN}",
    ),
    (
        r"scheduled for deletion",
        "a secret of this name is on its way out; take another `name` in terraform.tfvars, or bring it back: "
        "`aws secretsmanager restore-secret --secret-id …` and an import block",
    ),
    (
        TAKEN,
        "the name is taken: take another `name` in terraform.tfvars. If it is yours, left by an interrupted run or made "
        'by hand, let Terraform adopt it (README, "Moving from resources made by hand")',
    ),
    (
        r"state lock|Error acquiring the state",
        "another run holds the state, or was killed: wait for it, or `terraform force-unlock ID` in infra/",
    ),
    (r"no such host|dial tcp|could not resolve", "check the region in terraform.tfvars and the network"),
    (
        r"AccessDenied|UnauthorizedOperation|not authorized to perform",
        "these credentials lack a permission; ask for it, or use another AWS_PROFILE",
    ),
)


class Terraform:
    def __init__(self, folder: Path, console: Console, secrets: Mapping[str, str]) -> None:
        """Takes what every run shares.

        Args:
            folder: with main.tf, the state and terraform.tfvars.
            console: for progress.
            secrets: variables that terraform gets by the environment, as arguments are visible to every process.
        """
        if not (folder / "main.tf").is_file():
            raise AnswerError(f"--folder must be the folder with Atelier's main.tf; received {folder}")
        self.folder, self._console = folder, console
        self._environment = (
            os.environ | {f"TF_VAR_{name}": value for name, value in secrets.items()} | {"TF_IN_AUTOMATION": "1"}
        )

    def set_variable_secret(self, name: str, secret: str) -> None:
        self._environment[f"TF_VAR_{name}"] = secret

    def init(self) -> None:
        with self._console.status("terraform init"):
            done = self._call(["init", "-input=false", "-no-color"])
        if done.returncode:
            raise ToolError(error_message("terraform init", done.stderr.strip() or done.stdout.strip()))

    def plan(
        self, out: Path, variables: Mapping[str, str], *, destroy: bool = False, replace: str | None = None
    ) -> dict[str, Any]:
        """Writes a plan file, and returns the plan as terraform's JSON. `replace`: a resource to make anew in any case."""
        arguments = ["plan", "-json", "-input=false", f"-out={out}", *(["-destroy"] if destroy else [])]
        arguments += [f"-replace={replace}"] if replace else []
        self._stream([*arguments, *_flags(variables)], "planning")
        shown = self._call(["show", "-json", str(out)])
        if shown.returncode:
            raise ToolError(error_message("terraform show", shown.stderr.strip()))
        plan: dict[str, Any] = json.loads(shown.stdout)
        return plan

    def apply(self, plan: Path) -> None:
        self._stream(["apply", "-json", "-input=false", str(plan)], "applying")

    def untaint(self, address: str) -> None:
        """Takes the mark off a resource that a run which was interrupted left half made, so that it is not replaced."""
        done = self._call(["untaint", "-no-color", address])
        if done.returncode:
            raise ToolError(error_message("terraform untaint", done.stderr.strip()))

    def outputs(self) -> dict[str, Any]:
        """Terraform's outputs; empty before the first apply."""
        with self._console.status("reading terraform's outputs"):
            done = self._call(["output", "-json"])
        if done.returncode:
            if re.search(r"init|[Bb]ackend", done.stderr):
                self.init()
                done = self._call(["output", "-json"])
            if done.returncode:
                raise ToolError(error_message("terraform output", done.stderr.strip()))
        outputs: dict[str, Any] = json.loads(done.stdout or "{}")
        return outputs

    def _call(self, arguments: list[str]) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                ["terraform", *arguments], cwd=self.folder, env=self._environment, capture_output=True, text=True, check=False
            )
        except FileNotFoundError:
            raise missing("terraform") from None

    def _stream(self, arguments: list[str], said: str) -> None:
        """Runs a command that reports as JSON lines.

        Raises:
            Interrupted: Ctrl-C was pressed; terraform finished what it had begun and wrote its state.
            ToolError: it failed, with terraform's own errors and what to do.
        """
        try:
            process = subprocess.Popen(
                ["terraform", *arguments],
                cwd=self.folder,
                env=self._environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,  # Ctrl-C reaches terraform through us, once: two of them would make it drop its state
            )
        except FileNotFoundError:
            raise missing("terraform") from None
        interrupted = False

        def pass_on(_signal: int, _frame: FrameType | None) -> None:
            nonlocal interrupted
            if not interrupted:
                interrupted = True
                process.send_signal(signal.SIGINT)
                self._console.print(
                    "\ninterrupted: terraform finishes what it has begun and writes its state; this may take a minute"
                )

        before = {each: signal.signal(each, pass_on) for each in (signal.SIGINT, signal.SIGTERM)}
        try:
            with process:
                errors = self._follow(process.stdout or iter(()), said)
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)
        if interrupted:
            raise Interrupted("interrupted; what was finished is kept in the state: run the same command again to go on")
        if process.returncode:
            raise ToolError(
                error_message(
                    f"terraform {arguments[0]}", "\n".join(dict.fromkeys(errors)) or f"exit code {process.returncode}"
                )
            )

    def _follow(self, lines: Iterator[str] | Any, said: str) -> list[str]:
        errors, done = [], 0
        with self._console.status(said) as status:
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
                    status.update(f"{said}  [dim]{done} done, {str(resource).replace('[', '(').replace(']', ')')}[/]")
        return errors


def error_message(what: str, said: str) -> str:
    """Terraform's words and, where the cause is known, what to do."""
    said = "\n".join(f"    {line}" for line in said.splitlines() if line.strip())
    advice = next((advice for pattern, advice in KNOWN if re.search(pattern, said)), None)
    return f"{what} failed:\n{said}" + (f"\n{advice}" if advice else "")


def _format_diagnostic(diagnostic: dict[str, Any]) -> str:
    """One error, and how to adopt what stands in the way where its name is told."""
    said = ": ".join(filter(None, (diagnostic["summary"], diagnostic.get("detail"))))
    name = re.search(r"creating [^(]*\(([^)\s]+)\)", said)
    if re.search(TAKEN, said) and name and diagnostic.get("address"):
        said += f"\nto adopt it, if it is yours: terraform import '{diagnostic['address']}' {name[1]}"
    return said


def _flags(variables: Mapping[str, str]) -> list[str]:
    return [f"-var={name}={value}" for name, value in variables.items()]
