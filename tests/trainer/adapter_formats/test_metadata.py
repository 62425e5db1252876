"""What the metadata of a file says of its style."""

from __future__ import annotations

from atelier_contracts.styles import Recommended
from atelier_trainer.adapter_formats.metadata import read_style


def test_metadata_that_makes_no_sense_is_left_out() -> None:
    style = read_style({"modelspec.trigger_phrase": ",".join("abcdefgh" * 10), "modelspec.title": "x" * 999})
    assert (len(style.trigger_words), len(style.title or "")) == (50, 200)
    for text in ('{"a": {"b": Infinity}}', '{"a": [1]}', "[1]", "nonsense", "[" * 100_000):
        assert read_style({"ss_tag_frequency": text}).trigger_words == ()
    for text in ('{"steps": 0}', '{"mood": 1}', "[]", "nonsense", "[" * 100_000):
        assert read_style({"atelier.recommended": text}).recommended == Recommended()
