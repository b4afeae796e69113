"""Small base models that have learned something: to answer in the way that a word in front of the text asks
for.

A text is four words. Each way to read it, an instruction word, sorts the words into two halves of its own,
and the answer says which half more of the text's words are in. So a prompt for a bare text has something to
find: what the instruction does to the model.
"""

import functools
import random
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

__all__ = ["LABELS", "Kind", "lines", "make_base", "make_tokenizer"]

Kind = Literal["decoder", "encoder-decoder", "encoder"]
LABELS = ("low", "high")
WORDS = tuple(f"w{number}" for number in range(24))
WAYS = tuple(f"way{number}" for number in range(6))
_SPECIAL = ("<pad>", "</s>", "<s>", "<unk>", "Answer:")
_VOCABULARY = (*_SPECIAL, *LABELS, *WAYS, *WORDS)
_PICKED = 3  # an odd number, so that one half always has more


def lines(way: int, count: int, seed: int) -> list[dict[str, str]]:
    """Return ``count`` examples of one way to read texts."""
    rng = random.Random(seed)
    return [_line(way, rng) for _ in range(count)]


def make_base(kind: Kind, directory: Path) -> Path:
    """Write a base model of ``kind`` with its tokenizer into ``directory``: the same one each time."""
    tokenizer = make_tokenizer(kind)
    torch.set_num_threads(1)
    model = _trained(kind)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def _line(way: int, rng: random.Random) -> dict[str, str]:
    words = [rng.choice(WORDS) for _ in range(_PICKED)]
    high = sum(_is_high(way, WORDS.index(word)) for word in words)
    return {"text": " ".join(words), "label": LABELS[high > _PICKED // 2]}


def _is_high(way: int, word: int) -> bool:
    return bool(random.Random(1000 * way + word).getrandbits(1))


def make_tokenizer(kind: Kind) -> PreTrainedTokenizerFast:
    """Return the tokenizer of each kind's base model: a token a word."""
    vocabulary = {word: number for number, word in enumerate(_VOCABULARY)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if kind == "encoder-decoder":
        pieces = [("</s>", vocabulary["</s>"])]
        inner.post_processor = processors.TemplateProcessing(
            single="$A </s>", special_tokens=pieces
        )
    elif kind == "encoder":
        pieces = [("<s>", vocabulary["<s>"])]
        inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=pieces)
    untyped: Any = PreTrainedTokenizerFast
    made: PreTrainedTokenizerFast = untyped(
        tokenizer_object=inner,
        pad_token="<pad>",
        eos_token="</s>",
        bos_token="<s>",
        unk_token="<unk>",
    )
    return made


@functools.cache
def _trained(kind: Kind) -> Any:
    torch.manual_seed(0)
    model = _MAKE[kind]()
    tokenizer = make_tokenizer(kind)
    rng = random.Random(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    steps = 500
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for _ in range(steps):
        loss = _loss(kind, model, tokenizer, rng)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return model.eval()


def _loss(kind: Kind, model: Any, tokenizer: Any, rng: random.Random) -> torch.Tensor:
    rows = []
    for _ in range(64):
        way = rng.randrange(len(WAYS))
        rows.append((way, _line(way, rng)))
    texts = [f"{WAYS[way]} {row['text']}" for way, row in rows]
    answers = [row["label"] for _, row in rows]
    if kind == "encoder-decoder":
        batch = tokenizer(texts, return_tensors="pt")
        labels = tokenizer(answers, return_tensors="pt").input_ids
        loss: torch.Tensor = model(**_fields(batch), labels=labels).loss
        return loss
    if kind == "encoder":
        # It fills in the answer in front of the text; a classifier then has something to read there.
        batch = tokenizer(texts, return_tensors="pt")
        labels = torch.full_like(batch.input_ids, -100)
        labels[:, 0] = tokenizer(answers, return_tensors="pt").input_ids[:, 1]
    else:
        whole = [f"{t} Answer: {a}" for t, a in zip(texts, answers, strict=True)]
        batch = tokenizer(whole, return_tensors="pt")
        labels = torch.full_like(batch.input_ids, -100)
        labels[:, -1] = batch.input_ids[:, -1]
    answered: torch.Tensor = model(**_fields(batch), labels=labels).loss
    return answered


def _fields(batch: Any) -> dict[str, Any]:
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


def _llama() -> Any:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(_VOCABULARY),
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=64,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=2,
        )
    )


def _t5() -> Any:
    config: Any = T5Config  # it takes more than it names
    return T5ForConditionalGeneration(
        config(
            vocab_size=len(_VOCABULARY),
            d_model=48,
            d_kv=12,
            d_ff=96,
            num_layers=2,
            num_heads=4,
            dropout_rate=0.0,
            decoder_start_token_id=0,
            pad_token_id=0,
            eos_token_id=1,
        )
    )


def _bert() -> Any:
    return BertForMaskedLM(
        BertConfig(
            vocab_size=len(_VOCABULARY),
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=64,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            pad_token_id=0,
        )
    )


_MAKE = {"decoder": _llama, "encoder-decoder": _t5, "encoder": _bert}
