"""The README lists every flag with its default and meaning, and every file."""

import dataclasses
import re
from pathlib import Path

from atelier_trainer.config.options import TrainOptions
from atelier_trainer.tune.options import TuneOptions

SERVICE = Path(__file__).parents[2] / "services/trainer"
TEXT = (SERVICE / "README.md").read_text()


def test_every_flag_has_a_true_row():
    rows = re.findall(r"^\| `--(\w+)` \| (.+?) \| (.+?) \|$", TEXT, re.M)
    expected = [
        (field.name, "–" if field.default is None else f"`{field.default}`", field.metadata["help"])
        for kind in (TrainOptions, TuneOptions)
        for field in dataclasses.fields(kind)
    ]
    assert rows == expected
