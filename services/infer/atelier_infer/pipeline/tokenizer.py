"""Prompts to token ids, as CLIPTokenizer does with padding="max_length" and truncation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from atelier_contracts.manifests import TextEncoder
from numpy.typing import NDArray
from tokenizers import Tokenizer

TokenIds = tuple[NDArray[np.int64], ...]
"""Of one text, by text encoder: int64 [s], s = its tokens."""


@dataclass(frozen=True)
class Tokens:
    """Of one prompt.

    Attributes:
        ids: by text encoder.
        dropped: number of tokens that did not fit; the largest of the text encoders.
    """

    ids: TokenIds
    dropped: int


class PromptTokenizer:
    """Wraps a bundle's tokenizers, whose files define normaliser, byte pairs, and start and end tokens.

    Args:
        tokenizers: of each text encoder, in the manifest's order.
    """

    def __init__(self, tokenizers: Sequence[tuple[Tokenizer, TextEncoder]]) -> None:
        self._tokenizers = tokenizers
        for tokenizer, _ in tokenizers:  # a tokenizer file may store the padding and truncation of its last use
            tokenizer.no_padding()
            tokenizer.no_truncation()

    @property
    def tokens(self) -> int:
        """Number of tokens of a prompt; the smallest of the text encoders."""
        return min(encoder.tokens for _, encoder in self._tokenizers)

    def encode(self, prompt: str) -> Tokens:
        """Truncates before the end token or pads after it."""
        encoded = [_encode(tokenizer, encoder, prompt) for tokenizer, encoder in self._tokenizers]
        return Tokens(tuple(ids for ids, _ in encoded), max(dropped for _, dropped in encoded))


def _encode(tokenizer: Tokenizer, encoder: TextEncoder, prompt: str) -> tuple[NDArray[np.int64], int]:
    ids = tokenizer.encode(prompt).ids
    dropped = max(0, len(ids) - encoder.tokens)
    if dropped:
        ids = [*ids[: encoder.tokens - 1], ids[-1]]
    padded = ids + [encoder.pad_token_id] * (encoder.tokens - len(ids))
    return np.array(padded, np.int64), dropped
