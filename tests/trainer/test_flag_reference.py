"""The reference lists every flag with its default and meaning, in the groups of --help."""

from __future__ import annotations

import re
from pathlib import Path

from atelier_trainer.config.flag import flags_of
from atelier_trainer.config.options import TrainOptions
from atelier_trainer.tune.options import TuneOptions

PAGE = Path(__file__).parents[2] / "docs/reference/trainer/flags.md"


def test_the_reference_has_every_flag_with_its_group_default_and_meaning() -> None:
    group, rows = "", []
    for line in PAGE.read_text().splitlines():
        if heading := re.fullmatch(r"### (\w+)", line):
            group = heading[1]
        elif row := re.fullmatch(r"\| `--(\w+)` \| (.+?) \| (.+?) \|", line):
            rows.append((group, *row.groups()))
    expected = [
        (flag.group, flag.name, "–" if flag.default is None else f"`{flag.default}`", flag.help)
        for options in (TrainOptions, TuneOptions)
        for flag in flags_of(options).values()
    ]
    assert rows == expected
