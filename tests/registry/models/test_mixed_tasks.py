"""In a batch that mixes prompts, each row gets what it gets alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.generation.streamers import BaseStreamer

from promptreg import PromptedModel, SoftPrompt
from registry.models.architectures import ARCHITECTURES, make
from registry.models.mixed_prompts import alone, attach_all, make_prompts
from registry.models.peft_prompts import left_padded, right_padded, rows_alone

DECODERS = [name for name, each in ARCHITECTURES.items() if each.kind == "causal"]
ENCODERS = [name for name, each in ARCHITECTURES.items() if each.kind == "encoder"]
SEQ2SEQ = [name for name, each in ARCHITECTURES.items() if each.kind == "encoder-decoder"]
ROWS = ["long", None, "short", "prefix", "behind", "p-tuned", "short", None]
LENGTHS = (9, 6, 3, 7, 9, 4, 8, 2)


@dataclass(frozen=True)
class Mixed:
    """A tiny model with all prompts, and what its rows get alone."""

    name: str
    prompted: PromptedModel
    prompts: dict[str, SoftPrompt]

    def alone(self, row: str | None, ids: Tensor, **more: Any) -> Tensor:
        prompt = None if row is None else self.prompts[row]
        return alone(self.prompted.model, prompt, ids, **more)


@pytest.fixture(scope="module", params=DECODERS)
def decoder(request: pytest.FixtureRequest) -> Iterator[Mixed]:
    yield from mixed(request.param)


@pytest.fixture(scope="module", params=ENCODERS)
def encoder(request: pytest.FixtureRequest) -> Iterator[Mixed]:
    yield from mixed(request.param)


@pytest.fixture(scope="module", params=SEQ2SEQ)
def seq2seq(request: pytest.FixtureRequest) -> Iterator[Mixed]:
    yield from mixed(request.param)


def mixed(name: str) -> Iterator[Mixed]:
    model = make(name)
    prompts = make_prompts(model)
    with attach_all(model, prompts) as prompted:
        yield Mixed(name, prompted, prompts)


def close(actual: Tensor, expected: Tensor) -> None:
    """Hold within 1e-5 of the spread of what was expected."""
    error = (actual - expected).abs().max() / expected.abs().max()
    assert error <= 1e-5, f"off by {float(error):.1e}"


@pytest.mark.parametrize("padded", [left_padded, right_padded])
def test_a_decoders_row_gets_the_logits_that_it_gets_alone(decoder: Mixed, padded: Any) -> None:
    batch = padded(*LENGTHS)
    with torch.no_grad():
        logits = decoder.prompted(**batch, prompts=ROWS).logits
    for row, ids in enumerate(rows_alone(batch)):
        real = batch["attention_mask"][row] == 1
        close(logits[row][real][None], decoder.alone(ROWS[row], ids))


@pytest.mark.parametrize("padded", [left_padded, right_padded])
def test_a_decoders_row_goes_on_as_it_does_alone(decoder: Mixed, padded: Any) -> None:
    batch = padded(*LENGTHS)
    how: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    together = decoder.prompted.generate(**batch, prompts=ROWS, **how)
    for row, ids in enumerate(rows_alone(batch)):
        expected = ids
        for _ in range(12):
            new = decoder.alone(ROWS[row], expected)[:, -1].argmax(dim=-1)
            expected = torch.cat([expected, new[:, None]], dim=1)
        assert together[row, -12:].tolist() == expected[0, -12:].tolist()
        assert together[row, :-12].equal(batch["input_ids"][row])


def test_an_order_of_rows_gives_the_same_order_of_outputs(decoder: Mixed) -> None:
    batch = left_padded(*LENGTHS)
    order = [5, 0, 7, 2, 4, 6, 1, 3]
    with torch.no_grad():
        logits = decoder.prompted(**batch, prompts=ROWS).logits
        moved = decoder.prompted(
            **{key: tensor[order] for key, tensor in batch.items()},
            prompts=[ROWS[row] for row in order],
        ).logits
    real = batch["attention_mask"][order] == 1
    close(moved[real], logits[order][real])


def test_more_padding_changes_nothing(decoder: Mixed) -> None:
    batch = left_padded(*LENGTHS)
    wider = {key: torch.nn.functional.pad(tensor, (7, 4)) for key, tensor in batch.items()}
    with torch.no_grad():
        logits = decoder.prompted(**batch, prompts=ROWS).logits
        padded = decoder.prompted(**wider, prompts=ROWS).logits
    real = batch["attention_mask"] == 1
    close(padded[:, 7:-4][real], logits[real])


def test_a_pass_goes_on_from_the_cache_of_a_mixed_one(decoder: Mixed) -> None:
    batch = left_padded(*LENGTHS)
    with torch.no_grad():
        whole = decoder.prompted(**batch, prompts=ROWS).logits[:, -1]
        first = decoder.prompted(
            batch["input_ids"][:, :-1],
            batch["attention_mask"][:, :-1],
            prompts=ROWS,
            use_cache=True,
        )
        last = decoder.prompted(
            batch["input_ids"][:, -1:],
            batch["attention_mask"],
            prompts=ROWS,
            past_key_values=first.past_key_values,
        ).logits[:, -1]
    close(last, whole)


def test_the_loss_of_a_mixed_batch_is_that_of_its_rows(decoder: Mixed) -> None:
    batch = left_padded(*LENGTHS)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    with torch.no_grad():
        loss = decoder.prompted(**batch, labels=labels, prompts=ROWS).loss
        total, count = torch.zeros(()), 0
        for name, ids in zip(ROWS, rows_alone(batch), strict=True):
            own = decoder.prompted(ids, labels=ids, prompts=[name]).loss
            # A virtual token in front of the text predicts its first token too.
            tokens = ids.shape[1] - (name in {None, "behind", "prefix"})
            total, count = total + own * tokens, count + tokens
    torch.testing.assert_close(loss, total / count, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("padded", [left_padded, right_padded])
def test_an_encoders_row_gets_what_it_gets_alone(encoder: Mixed, padded: Any) -> None:
    batch = padded(*LENGTHS)
    rows = [name if name != "prefix" else "long" for name in ROWS]
    with torch.no_grad():
        logits = encoder.prompted(**batch, prompts=rows).logits
    for row, ids in enumerate(rows_alone(batch)):
        expected = encoder.alone(rows[row], ids)
        real = ... if logits.ndim == 2 else batch["attention_mask"][row] == 1
        close(logits[row][real][None], expected)


@pytest.mark.parametrize("padded", [left_padded, right_padded])
def test_a_sequence_to_sequence_row_gets_what_it_gets_alone(seq2seq: Mixed, padded: Any) -> None:
    batch = padded(*LENGTHS)
    start = right_padded(4, 4, 4, 4, 4, 4, 4, 4, seed=1)["input_ids"]
    with torch.no_grad():
        logits = seq2seq.prompted(**batch, decoder_input_ids=start, prompts=ROWS).logits
    for row, ids in enumerate(rows_alone(batch)):
        own = start[row : row + 1]
        close(logits[row : row + 1], seq2seq.alone(ROWS[row], ids, decoder_input_ids=own))


@pytest.mark.parametrize("padded", [left_padded, right_padded])
@pytest.mark.parametrize("beams", [1, 3])
def test_a_sequence_to_sequence_row_goes_on_as_it_does_alone(
    seq2seq: Mixed, beams: int, padded: Any
) -> None:
    batch = padded(*LENGTHS)
    how: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "num_beams": beams}
    together = seq2seq.prompted.generate(**batch, prompts=ROWS, **how)
    for row, ids in enumerate(rows_alone(batch)):
        own = seq2seq.prompted.generate(ids, prompts=[ROWS[row]], **how)
        assert together[row, : own.shape[1]].tolist() == own[0].tolist()


def test_beams_of_a_mixed_batch_are_those_of_its_rows(decoder: Mixed) -> None:
    batch = left_padded(*LENGTHS)
    how: dict[str, Any] = {
        "max_new_tokens": 6,
        "num_beams": 3,
        "num_return_sequences": 2,
        "do_sample": False,
        "eos_token_id": None,
    }
    together = decoder.prompted.generate(**batch, prompts=ROWS, **how)
    for row, ids in enumerate(rows_alone(batch)):
        own = decoder.prompted.generate(ids, prompts=[ROWS[row]], **how)
        assert together[2 * row : 2 * row + 2, -6:].tolist() == own[:, -6:].tolist()


def test_a_static_cache_gives_a_mixed_batch_the_same(decoder: Mixed) -> None:
    batch = left_padded(*LENGTHS)
    how: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    expected = decoder.prompted.generate(**batch, prompts=ROWS, **how)
    static = decoder.prompted.generate(**batch, prompts=ROWS, cache_implementation="static", **how)
    assert static.equal(expected)


@pytest.mark.parametrize("name", ["long", "behind", "prefix", None])
def test_one_row_streams_its_new_tokens(decoder: Mixed, name: str | None) -> None:
    seen: list[int] = []

    class Streamer(BaseStreamer):
        def put(self, value: Tensor) -> None:
            seen.extend(value.flatten().tolist())

        def end(self) -> None:
            seen.append(-1)

    ids = right_padded(7)["input_ids"]
    how: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    output = decoder.prompted.generate(ids, prompts=[name], streamer=Streamer(), **how)
    assert seen == [*output[0].tolist(), -1]


def test_drawing_gives_each_row_what_its_own_prompt_makes_likely(decoder: Mixed) -> None:
    """At a temperature near nothing a draw is the likeliest token, for each row under its own prompt."""
    batch = left_padded(*LENGTHS)
    how: dict[str, Any] = {"max_new_tokens": 6, "eos_token_id": None}
    greedy = decoder.prompted.generate(**batch, prompts=ROWS, do_sample=False, **how)
    cold = decoder.prompted.generate(
        **batch, prompts=ROWS, do_sample=True, temperature=1e-7, top_k=0, **how
    )
    assert cold.equal(greedy)
