"""Prompts to token ids, as CLIPTokenizer does with padding="max_length" and truncation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer


@dataclass(frozen=True)
class Tokens:
    """Of one prompt.

    Attributes:
        ids: int64 [s], s = the bundle's text_tokens.
        dropped: number of tokens that did not fit.
    """

    ids: NDArray[np.int64]
    dropped: int


class PromptTokenizer:
    """Wraps the bundle's tokenizer, whose file defines normaliser, byte pairs, and start and end tokens."""

    def __init__(self, tokenizer: Tokenizer, *, text_tokens: int, pad_token_id: int) -> None:
        self._tokenizer, self._length, self._pad = tokenizer, text_tokens, pad_token_id
        # a tokenizer file may store the padding and truncation of its last use
        tokenizer.no_padding()
        tokenizer.no_truncation()

    def encode(self, prompt: str) -> Tokens:
        """Truncates before the end token or pads after it."""
        ids = self._tokenizer.encode(prompt).ids
        dropped = max(0, len(ids) - self._length)
        if dropped:
            ids = [*ids[: self._length - 1], ids[-1]]
        padded = ids + [self._pad] * (self._length - len(ids))
        return Tokens(np.array(padded, np.int64), dropped)
