"""The adapter on the Hugging Face hub; the login is HF_TOKEN or what `hf auth login` left."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

from atelier_trainer.errors import OptionError, TrackingError


def check_login() -> None:
    """The hub knows who we are.

    Raises:
        OptionError: it does not, or cannot be reached.
    """
    try:
        HfApi().whoami()
    except (HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled, OSError, ValueError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise OptionError(f"--push_to_hub needs a login and the network ({first_line[:200]}); set HF_TOKEN") from error


def push(folder: Path, repository: str) -> str:
    """Uploads the folder as one commit, to a repository that is made where it is missing; returns its address.

    Raises:
        TrackingError: the hub did not answer or refused.
    """
    try:
        made = HfApi().create_repo(repository, exist_ok=True)
        HfApi().upload_folder(repo_id=made.repo_id, folder_path=folder, commit_message="Upload a LoRA adapter")
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise TrackingError(f"the hub did not take {repository!r}: {str(error).strip().splitlines()[0][:300]}") from error
    return str(made)
