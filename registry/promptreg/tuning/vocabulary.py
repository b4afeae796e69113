"""The vocabulary of a base model: its vectors as the model reads them, and its tokens as people read them.

P is the number of virtual tokens, H the base model's embedding width, V the size of its vocabulary, C how much
of it is looked at together, K how many near tokens are wanted.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from promptreg.errors import AttachError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from promptreg.prompts import SoftPrompt

__all__ = ["Nearness", "Vocabulary"]

_TOGETHER = 8192
_QUANTILES = (0.05, 0.5, 0.95)
_TINY = 1e-30  # so that nothing is divided by 0
_SPACE = "▁"
_BYTE = re.compile("<0x[0-9A-F]{2}>")  # as SentencePiece writes one
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

Near = tuple[int, float, float]
"""A token's number, the cosine with it and the distance to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Nearness:
    """How virtual tokens lie in the vocabulary.

    Attributes:
        norms: [P] Their lengths.
        percentiles: [P] How many of a hundred tokens of the vocabulary are shorter.
        quantiles: The norms below which 5, 50 and 95 of a hundred tokens of the vocabulary lie.
        closest: [P] The highest cosine with any token of the vocabulary.
        nearest: [P, K] The nearest tokens of the vocabulary, the nearest first.
    """

    norms: tuple[float, ...]
    percentiles: tuple[float, ...]
    quantiles: tuple[float, float, float]
    closest: tuple[float, ...]
    nearest: tuple[tuple[Near, ...], ...]


class Vocabulary:
    """The tokens of a base model.

    Args:
        embedding: Turns token ids [C] into vectors [C, H].
        size: V.
        tokenizer: Tells what the ids stand for; None if there is none.

    Attributes:
        size: V.
        notes: What is odd about it, a sentence each.
    """

    def __init__(self, embedding: nn.Module, size: int, tokenizer: Any = None) -> None:
        self._embedding = embedding
        self._tokenizer = tokenizer
        self.size = size
        self.notes: tuple[str, ...] = ()
        if tokenizer is None:
            self.notes = (
                "there is no tokenizer beside the base model: tokens are shown by number",
            )

    @classmethod
    def load(cls, directory: Path, prompt: "SoftPrompt") -> "Vocabulary":
        """Load the vocabulary of the base model in ``directory``, and no more of it than that if possible.

        Args:
            directory: The directory.
            prompt: What it is for, should the whole base model be needed.

        Raises:
            BaseModelError: The directory holds no base model that can be read.
        """
        from promptreg.models.embedding import load_input_embedding
        from promptreg.models.loading import load_base

        embedding: nn.Module
        try:
            embedding = load_input_embedding(directory)
        except AttachError:  # it is made of more than one table: the whole model knows how
            model: Any = load_base(directory, prompt)
            embedding = model.get_input_embeddings()
        size = max(each.shape[0] for each in embedding.parameters() if each.ndim > 1)
        return cls(embedding, size, _tokenizer(directory))

    @torch.no_grad()
    def compare(
        self,
        rows: "NDArray[Any]",
        *,
        nearest: int,
        by_cosine: bool,
        progress: Callable[[int, int], None] | None = None,
    ) -> Nearness:
        """Compare virtual tokens with the whole vocabulary, a part at a time.

        Args:
            rows: [P, H] The virtual tokens.
            nearest: K.
            by_cosine: Whether the nearest have the highest cosine; else they have the least distance.
            progress: Called with how many tokens of the vocabulary were compared, of how many.
        """
        tokens = torch.from_numpy(rows.astype("float32"))
        lengths = tokens.norm(dim=1)
        closest = torch.full_like(lengths, -1)
        scores, numbers = torch.empty(len(tokens), 0), torch.empty(len(tokens), 0, dtype=torch.long)
        norms = []
        for start in range(0, self.size, _TOGETHER):
            ids = torch.arange(start, min(start + _TOGETHER, self.size))
            words = self._embedding(ids).float()
            norms.append(words.norm(dim=1))
            products = tokens @ words.T  # [P, C]
            cosines = _cosines(products, lengths[:, None], norms[-1])
            closest = closest.maximum(cosines.amax(dim=1))
            # Of the square of the distance, what differs from token to token.
            nearness = cosines if by_cosine else 2 * products - norms[-1] ** 2
            scores = torch.cat([scores, nearness], dim=1)
            numbers = torch.cat([numbers, ids.expand(len(tokens), -1)], dim=1)
            scores, chosen = scores.topk(min(nearest, scores.shape[1]), dim=1)
            numbers = numbers.gather(1, chosen)
            if progress is not None:
                progress(start + len(ids), self.size)
        ordered = torch.cat(norms).sort().values
        shorter = torch.searchsorted(ordered, lengths.contiguous())
        low, middle, high = (float(ordered[int(part * (self.size - 1))]) for part in _QUANTILES)
        return Nearness(
            norms=tuple(lengths.tolist()),
            percentiles=tuple((100 * shorter / self.size).tolist()),
            quantiles=(low, middle, high),
            closest=tuple(closest.tolist()),
            nearest=tuple(
                self._near(token, near) for token, near in zip(tokens, numbers, strict=True)
            ),
        )

    def _near(self, token: Tensor, numbers: Tensor) -> tuple[Near, ...]:
        """Return the tokens ``numbers`` [K], each with its exact cosine and distance to ``token`` [H]."""
        one, words = token.double(), self._embedding(numbers).double()
        cosines = _cosines(words @ one, words.norm(dim=1), one.norm())
        distances = (words - one).norm(dim=1)
        return tuple(zip(numbers.tolist(), cosines.tolist(), distances.tolist(), strict=True))

    def text(self, number: int) -> str:
        """Return the token ``number`` as people read it, on one line, with nothing invisible in it."""
        piece = None if self._tokenizer is None else self._piece(number)
        if piece is None:
            return f"<{number}>"
        if number in self._tokenizer.all_special_ids or _SPACE in piece:
            return _visible(piece)
        text = self._tokenizer.decode([number], clean_up_tokenization_spaces=False)
        if _REPLACEMENT in text:
            return _bytes_of(piece) or _visible(piece)
        return _visible(text or piece).replace(" ", _SPACE)

    def _piece(self, number: int) -> str | None:
        """Return what the tokenizer calls a token; None where the embedding is longer than the tokenizer."""
        if number >= len(self._tokenizer):
            return None
        piece: str | None = self._tokenizer.convert_ids_to_tokens(number)
        return piece


def _cosines(products: Tensor, lengths: Tensor, others: Tensor) -> Tensor:
    """Return ``products`` of vectors, over their lengths; that of nothing is 0."""
    both = lengths * others
    return torch.where(both > 0, products / both.clamp(min=_TINY), 0).clamp(-1, 1)


def _visible(text: str) -> str:
    """Return ``text`` with what cannot be seen spelled out."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def _bytes_of(piece: str) -> str | None:
    """Return the bytes that a piece of a byte-level vocabulary stands for; None if it is of another kind."""
    alphabet = _byte_alphabet()
    if _BYTE.fullmatch(piece) or not all(each in alphabet for each in piece):
        return None
    return "<" + " ".join(f"0x{alphabet[each]:02X}" for each in piece) + ">"


@cache
def _byte_alphabet() -> dict[str, int]:
    """Return the byte of each letter that byte-level vocabularies write bytes with, GPT-2's."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [each for each in range(0x100) if each not in seen]
    return {chr(each): each for each in seen} | {
        chr(0x100 + at): each for at, each in enumerate(rest)
    }


def _tokenizer(directory: Path) -> Any:
    """Return the tokenizer in ``directory``, None if there is none that can be read."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
