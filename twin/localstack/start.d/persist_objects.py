"""Executed by LocalStack inside its own process, before it listens."""

import os
import sys
import traceback
from pathlib import Path

sys.path.insert(0, "/opt/twin")
try:
    from persistent_s3.provider import install

    install(Path("/var/lib/localstack/kept-s3"))
except BaseException:  # noqa: BLE001  # whatever it is: LocalStack would log one line and go on with an S3 that forgets
    traceback.print_exc()
    os._exit(1)
