"""The walk-through's door: `train_tune.py FLAGS` trains and `train_tune.py --tune FLAGS` searches; see README.md."""

import sys

from atelier_trainer.__main__ import main

if __name__ == "__main__":
    flags = [flag for flag in sys.argv[1:] if flag != "--tune"]
    sys.exit(main(["tune" if len(flags) < len(sys.argv) - 1 else "train", *flags]))
