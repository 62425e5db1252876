"""docs/reference/trainer/commands.md lists every command, and every flag of import and export."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest
from atelier_trainer.__main__ import _parser

TEXT = (Path(__file__).parents[3] / "docs/reference/trainer/commands.md").read_text()


def commands() -> dict[str, argparse.ArgumentParser]:
    (action,) = (action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction))
    return dict(action.choices)


def test_every_command_is_listed() -> None:
    assert set(re.findall(r"^\| `(\w+)[ `]", TEXT.partition("| exit code")[0], re.M)) == set(commands())


@pytest.mark.parametrize("command", ["import", "export"])
def test_every_flag_is_listed_with_its_default(command: str) -> None:
    table = TEXT.partition(f"| flag of `{command}` |")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:3]] for line in table.splitlines() if line.startswith("| `--")]
    listed = {flag: default for flags, default in rows for flag in re.findall(r"`--(\w+)`", flags)}
    actions = [action for action in commands()[command]._actions if action.option_strings and action.dest != "help"]
    assert set(listed) == {action.dest for action in actions}
    for action in actions:
        if action.default not in (None, False, argparse.SUPPRESS):  # a flag of train has its default there
            assert listed[action.dest].strip("`") == str(action.default)
