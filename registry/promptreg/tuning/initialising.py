"""Where a prompt starts: random numbers, vocabulary, label words, a text, or another prompt.

P is the number of virtual tokens, H the base model's embedding width, V its vocabulary. Lester et al. 2021,
section 3.2: class labels and sampled vocabulary start better than random numbers, the more so the smaller the
model.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from promptreg.errors import TuningError
from promptreg.layouts import MODULES_PREFIX
from promptreg.models.virtual import load_virtual_tokens
from promptreg.prompts import Method
from promptreg.tuning.recipes import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from promptreg.models.anatomy import Anatomy
    from promptreg.prompts import SoftPrompt

__all__ = ["embedding_size", "initial_embeddings"]

_COMMONEST = 5_000  # Lester et al. 2021, section 3.2
_SAMPLED = 4_096


@torch.no_grad()
def initial_embeddings(
    recipe: Recipe,
    anatomy: "Anatomy",
    tokenizer: "PreTrainedTokenizerBase",
    *,
    labels: Sequence[str],
    texts: Iterable[Sequence[int]],
    parent: "SoftPrompt | None" = None,
) -> Tensor:
    """Return [P, H] where a prompt starts, float32, on the base model's device.

    Args:
        recipe: Its ``init``, ``num_virtual_tokens`` and ``seed`` say how.
        anatomy: The base model.
        tokenizer: Its tokenizer.
        labels: The label words.
        texts: The training texts' token ids, whose commonest ones ``vocab`` draws from.
        parent: The prompt that ``prompt:REF`` names.

    Raises:
        TuningError: There is nothing to start from: no labels, no tokens in the text, or a parent of another
            length.
    """
    generator = torch.Generator().manual_seed(recipe.seed)
    tokens = recipe.num_virtual_tokens
    if recipe.parent is not None:
        return _from_prompt(recipe, anatomy, parent)
    if recipe.init == "random":
        # Uniform as in the paper, but as large as this model's own embeddings: its 0.5 was for T5's.
        reach = embedding_size(anatomy) * 3**0.5
        drawn = torch.rand(tokens, anatomy.token_dim, generator=generator) * 2 - 1
        return (drawn * reach).to(anatomy.device)
    chosen: list[Tensor] = []
    if recipe.text is not None:
        ids = tokenizer(recipe.text, add_special_tokens=False)["input_ids"]
        if not ids:
            raise TuningError(
                f"the text {recipe.text!r} has no tokens to start from", "write some words"
            )
        repeated = [ids[at % len(ids)] for at in range(tokens)]
        return _embed(anatomy, repeated)
    if recipe.init == "labels" or (recipe.init == "auto" and labels):
        chosen = _label_embeddings(anatomy, tokenizer, labels)[:tokens]
    missing = tokens - len(chosen)
    if missing:
        chosen += list(_embed(anatomy, _sampled(texts, missing, generator)))
    return torch.stack(chosen)


@torch.no_grad()
def embedding_size(anatomy: "Anatomy") -> float:
    """Return the root mean square of what the embedding gives out, over a sample of the vocabulary."""
    step = max(1, anatomy.vocab_size // _SAMPLED)
    ids = list(range(0, anatomy.vocab_size, step))
    return float(_embed(anatomy, ids).square().mean().sqrt())


def _embed(anatomy: "Anatomy", ids: Sequence[int]) -> Tensor:
    """Return [len(ids), H] the embeddings of tokens as the layers see them, scaled if the model scales them."""
    embedded: Tensor = anatomy.embedding(torch.tensor(list(ids), device=anatomy.device)[None])
    return embedded[0].float()


def _label_embeddings(
    anatomy: "Anatomy", tokenizer: "PreTrainedTokenizerBase", labels: Sequence[str]
) -> list[Tensor]:
    """Return [H] for each label the mean of its tokens' embeddings."""
    if not labels:
        raise TuningError(
            "there are no labels to start from", "choose the initialisation vocab, random or text:…"
        )
    words = [tokenizer(f" {label}", add_special_tokens=False)["input_ids"] for label in labels]
    return [_embed(anatomy, ids).mean(dim=0) for ids in words if ids]


def _sampled(texts: Iterable[Sequence[int]], count: int, generator: torch.Generator) -> list[int]:
    """Return tokens drawn from the commonest of the texts, each once as long as there are enough."""
    counted = Counter(token for ids in texts for token in ids)
    ranked = sorted(counted, key=lambda token: (-counted[token], token))[:_COMMONEST]
    order = torch.randperm(len(ranked), generator=generator).tolist()
    return [ranked[order[at % len(order)]] for at in range(count)]


def _from_prompt(recipe: Recipe, anatomy: "Anatomy", parent: "SoftPrompt | None") -> Tensor:
    if parent is None:
        raise TuningError(
            f"the prompt {recipe.parent} to start from was not given", "pull it, and pass it"
        )
    if parent.method is Method.ENSEMBLE:
        raise TuningError(
            f"{recipe.parent} is an ensemble, and a prompt starts from one prompt",
            f"start from one of its members: {', '.join(parent.members)}",
        )
    # Without a classifier's head: only where the virtual tokens start is asked for.
    own = {
        name: each for name, each in parent.tensors.items() if not name.startswith(MODULES_PREFIX)
    }
    embeddings = load_virtual_tokens(replace(parent, tensors=own), anatomy).embeddings
    if embeddings is None:
        raise TuningError(
            f"{recipe.parent} is keys and values, and prompt tuning trains embeddings",
            "start from a prompt of embeddings",
        )
    if len(embeddings) != recipe.num_virtual_tokens:
        raise TuningError(
            f"{recipe.parent} has {len(embeddings)} virtual tokens, and {recipe.num_virtual_tokens} are wanted",
            f"train with --length {len(embeddings)}",
        )
    return embeddings.float().clone()
