"""`python -m atelier_registry`: without arguments the service, otherwise a command of `main.py`."""

from __future__ import annotations

import sys


def main() -> int:
    """Serves, or runs one command; returns the exit status."""
    if len(sys.argv) > 1:
        from atelier_registry.cli.main import run

        return run(sys.argv[1:])
    from atelier_registry.bootstrap import serve  # takes a second to import; the commands do without

    return serve()


if __name__ == "__main__":
    sys.exit(main())
