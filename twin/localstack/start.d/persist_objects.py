"""Run by LocalStack in its process before it starts: installs the persistent S3 provider."""

import os
import sys
import traceback
from pathlib import Path

sys.path.insert(0, "/opt/twin")
try:
    from persistent_s3.provider import install

    install(Path("/var/lib/localstack/kept-s3"))
except BaseException:  # noqa: BLE001  # LocalStack would log any error and continue with an S3 that is not persistent
    traceback.print_exc()
    os._exit(1)
