"""One file of a repository of the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from atelier_trainer.errors import HubError

SUFFIX = ".safetensors"


def is_hub_location(location: str) -> bool:
    """Whether this is `owner/repository` or `owner/repository:file`."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+(:.+)?", location) is not None and not location.startswith(".")


def download_file(location: str, revision: str | None = None) -> Path:
    """Downloads the safetensors file of `owner/repository`, or one of several as `owner/repository:file`.

    Raises:
        HubError: there is no such file, or the hub cannot be reached.
    """
    repository, _, wanted = location.partition(":")
    try:
        files = [wanted] if wanted else HfApi().list_repo_files(repository, revision=revision)
        files = [file for file in files if file.endswith(SUFFIX)]
        if len(files) != 1:
            listed = ", ".join(files[:5]) or f"no {SUFFIX} file"
            raise HubError(f"the repository {repository!r} has {listed}; name one as {repository}:FILE")
        return Path(hf_hub_download(repository, files[0], revision=revision))
    except (HfHubHTTPError, LocalEntryNotFoundError, ValueError, OSError) as error:
        raise HubError(
            f"{repository!r} is neither a file nor on the hub ({type(error).__name__}): check the name and the network"
        ) from error
