"""The vocabulary of a base model: compared as a whole, shown legibly."""

from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from promptreg.tuning.vocabulary import Vocabulary
from promptreg_cli.demo import base_directory

SIZE, WIDTH = 20_000, 8


def tokenizer(model: Any, decoder: Any) -> Any:
    made = Tokenizer(model)
    made.decoder = decoder
    wrap: Any = PreTrainedTokenizerFast
    return wrap(tokenizer_object=made, eos_token="</s>")


def embedding(words: torch.Tensor) -> nn.Embedding:
    made = nn.Embedding(*words.shape)
    made.weight.data = words
    return made


def texts(read: Any, count: int) -> list[str]:
    return [Vocabulary(nn.Embedding(count, 1), count, read).text(at) for at in range(count)]


@pytest.mark.parametrize("by_cosine", [True, False])
def test_the_nearest_are_those_of_the_definition(by_cosine: bool) -> None:
    generator = torch.manual_seed(0)
    words = torch.randn(SIZE, WIDTH, generator=generator)
    words *= torch.rand(SIZE, 1, generator=generator) + 0.5
    rows = torch.randn(3, WIDTH, generator=generator)
    steps: list[tuple[int, int]] = []
    found = Vocabulary(embedding(words), SIZE).compare(
        rows.numpy(),
        nearest=5,
        by_cosine=by_cosine,
        progress=lambda *step: steps.append(step),
    )
    cosines = torch.nn.functional.cosine_similarity(rows[:, None], words[None], dim=2)
    distances = torch.cdist(rows, words)
    order = (-cosines if by_cosine else distances).argsort(dim=1)[:, :5]
    assert [[number for number, _, _ in near] for near in found.nearest] == order.tolist()
    for row, near in enumerate(found.nearest):
        for number, cosine, distance in near:
            assert cosine == pytest.approx(float(cosines[row, number]), abs=1e-5)
            assert distance == pytest.approx(float(distances[row, number]), rel=1e-4)
    assert found.closest == pytest.approx(cosines.amax(dim=1).tolist(), abs=1e-5)
    assert steps[-1] == (SIZE, SIZE)
    assert len(steps) > 1, "a part at a time"


def test_percentiles_count_the_shorter_ones() -> None:
    words = torch.arange(1.0, 201)[:, None]
    rows = torch.tensor([[0.5], [100.4], [-200.5]])
    found = Vocabulary(embedding(words), 200).compare(rows.numpy(), nearest=1, by_cosine=False)
    assert found.percentiles == (0, 50, 100)
    assert found.quantiles == (10, 100, 190)
    assert [near[0][0] for near in found.nearest] == [0, 99, 0]


def test_pieces_of_a_byte_level_vocabulary_are_read_as_text_or_bytes() -> None:
    pieces = ["</s>", "cat", "Ġcat", "Ċ", "ĉ", "âĢ", "Ġ", "ð"]
    vocabulary = {piece: at for at, piece in enumerate(pieces)}
    read = tokenizer(models.BPE(vocab=vocabulary, merges=[]), decoders.ByteLevel())
    read.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    shown = ["</s>", "cat", "▁cat", "\\n", "\\t", "<0xE2 0x80>", "▁", "<0xF0>"]
    assert texts(read, len(pieces)) == shown


def test_pieces_of_a_sentencepiece_vocabulary_stay_as_they_are() -> None:
    pieces = ["</s>", "cat", "▁cat", "<0x0A>", "<0xE2>", "▁▁", "\n\n", "\x07", "é"]
    vocabulary = {piece: at for at, piece in enumerate(pieces)}
    decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    read = tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True), decoder)
    shown = ["</s>", "cat", "▁cat", "\\n", "<0xE2>", "▁▁", "\\n\\n", "\\x07", "é"]
    assert texts(read, len(pieces)) == shown


def test_pieces_inside_words_keep_their_marks() -> None:
    vocabulary = {"</s>": 0, "[UNK]": 1, "play": 2, "##ing": 3}
    read = tokenizer(models.WordPiece(vocab=vocabulary, unk_token="[UNK]"), decoders.WordPiece())
    assert texts(read, 4)[2:] == ["play", "##ing"]


def test_rows_beyond_the_tokenizer_are_numbers() -> None:
    read = tokenizer(models.BPE(vocab={"</s>": 0, "a": 1}, merges=[]), decoders.ByteLevel())
    assert texts(read, 4) == ["</s>", "a", "<2>", "<3>"]


def test_every_token_of_a_real_vocabulary_is_one_visible_line() -> None:
    read = AutoTokenizer.from_pretrained(base_directory())
    shown = texts(read, len(read))
    assert all(text and text.isprintable() and " " not in text for text in shown)
