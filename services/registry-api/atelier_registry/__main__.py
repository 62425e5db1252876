"""`python -m atelier_registry`: the service without arguments, otherwise a command."""

from __future__ import annotations

import sys


def main() -> int:
    """Returns the exit status."""
    if len(sys.argv) > 1:
        from atelier_registry.cli.main import run

        return run(sys.argv[1:])
    from atelier_registry.bootstrap import serve  # takes a second to import, which commands do not need

    return serve()


if __name__ == "__main__":
    sys.exit(main())
