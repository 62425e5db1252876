"""placeholder"""


def run(arguments: list[str]) -> int:
    """Placeholder."""
    return 0
