"""Entry point for command lines of diffusers' training scripts: FLAGS trains, --tune FLAGS searches."""

import sys

from atelier_trainer.__main__ import main

if __name__ == "__main__":
    flags = [flag for flag in sys.argv[1:] if flag != "--tune"]
    sys.exit(main(["tune" if len(flags) < len(sys.argv) - 1 else "train", *flags]))
