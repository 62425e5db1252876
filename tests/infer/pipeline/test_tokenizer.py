"""Token ids are those of CLIPTokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest
from atelier_contracts.manifests import TextEncoder
from atelier_infer.pipeline.tokenizer import PromptTokenizer
from tokenizers import Tokenizer
from transformers import CLIPTokenizer

from ..tiny_bundle import TEXT_TOKENS, tokenizer, vocabulary

PROMPTS = [
    "",
    "a cat",
    "  A  CAT,\n\tdog's 42 ",
    "cätdog 😀 – naïve",
    "<|endoftext|> a <|startoftext|>",
    "cat " * 14,
    "cat " * 15,
    "dog " * 200,
]


@pytest.fixture(scope="module")
def clip() -> CLIPTokenizer:
    words, merges = vocabulary()
    return CLIPTokenizer(vocab=words, merges=merges, model_max_length=TEXT_TOKENS, pad_token="!")


def prompt_tokenizer(tokenizer: Tokenizer, pad_token_id: int) -> PromptTokenizer:
    encoder = TextEncoder(graph="x.onnx", tokenizer="x.json", tokens=TEXT_TOKENS, pad_token_id=pad_token_id)
    return PromptTokenizer([(tokenizer, encoder)])


@pytest.mark.parametrize("prompt", PROMPTS)
def test_ids_are_cliptokenizers(clip: CLIPTokenizer, prompt: str, tmp_path: Path) -> None:
    clip.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    reader = prompt_tokenizer(Tokenizer.from_file(str(tmp_path / "tokenizer.json")), clip.pad_token_id)
    expected = clip(prompt, padding="max_length", truncation=True, max_length=TEXT_TOKENS).input_ids
    found = reader.encode(prompt)
    assert [ids.tolist() for ids in found.ids] == [expected]
    assert found.dropped == max(0, len(clip(prompt).input_ids) - TEXT_TOKENS)


def test_lengths_kept_in_the_file_do_not_count() -> None:
    left_over = tokenizer()
    left_over.enable_truncation(3)
    left_over.enable_padding(length=40)
    (ids,) = prompt_tokenizer(left_over, 0).encode("cat cat cat").ids
    assert ids.shape == (TEXT_TOKENS,)
    assert (ids != 0).sum() == 5
