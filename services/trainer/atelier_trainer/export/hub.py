"""The adapter on the Hugging Face hub; the login comes from HF_TOKEN or `hf auth login`."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

from atelier_trainer.errors import OptionError, TrackingError, first_line


def check_login() -> None:
    """Raises OptionError where the hub does not accept the login or cannot be reached."""
    try:
        HfApi().whoami()
    except (HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled, OSError, ValueError) as error:
        raise OptionError(f"--push_to_hub needs a login and the network ({first_line(error, 200)}); set HF_TOKEN") from error


def push(folder: Path, repository: str) -> str:
    """Uploads the folder as one commit, creating the repository where it is missing; returns its address.

    Raises:
        TrackingError: the hub did not answer or refused.
    """
    try:
        created = HfApi().create_repo(repository, exist_ok=True)
        HfApi().upload_folder(repo_id=created.repo_id, folder_path=folder, commit_message="Upload a LoRA adapter")
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise TrackingError(f"upload to the hub repository {repository!r} failed: {first_line(error)}") from error
    return str(created)
