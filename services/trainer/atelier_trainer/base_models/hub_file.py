"""One file of a repository of the Hugging Face hub, and errors of the hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download

from atelier_trainer.errors import HubError, TrainerError, first_line

SUFFIX = ".safetensors"


def is_hub_location(location: str) -> bool:
    """Whether this is `owner/repository` or `owner/repository:file`."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+(:.+)?", location) is not None and not location.startswith(".")


@contextmanager
def hub_errors(error_class: type[TrainerError], message: str) -> Iterator[None]:
    """Raises the error, in one line, where the hub refuses or cannot be reached."""
    try:
        yield
    except TrainerError:
        raise
    except Exception as error:  # the hub's client also passes on errors of its HTTP library, which it does not name
        raise error_class(f"{message}; the hub: {first_line(error, 200)}") from error


def download_file(location: str, revision: str | None = None) -> Path:
    """Downloads the safetensors file of `owner/repository`, or one of several as `owner/repository:file`.

    Raises:
        HubError: there is no such file, or the hub cannot be reached.
    """
    repository, _, wanted = location.partition(":")
    with hub_errors(HubError, f"{repository!r} is neither a file nor on the hub: check the name and the network"):
        if wanted:
            files = [wanted]
        else:  # this request is not repeated for half a minute, as that for a list of files is
            files = [file.rfilename for file in HfApi().model_info(repository, revision=revision).siblings or []]
        files = [file for file in files if file.endswith(SUFFIX)]
        if len(files) != 1:
            listed = ", ".join(files[:5]) or f"no {SUFFIX} file"
            raise HubError(f"the repository {repository!r} has {listed}; name one as {repository}:FILE")
        return Path(hf_hub_download(repository, files[0], revision=revision))
