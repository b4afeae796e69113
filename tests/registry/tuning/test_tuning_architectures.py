"""Every family of the matrix can be trained, one prompt beside another as alone."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel, RwkvConfig, RwkvForCausalLM

from promptreg.digests import Digest
from promptreg.errors import AttachError, InvalidDataError
from promptreg.models import from_module
from promptreg.tuning import Example, Examples, Plan, Recipe, Tuned, tune
from registry.models.architectures import ARCHITECTURES, VOCAB_SIZE, make
from small_bases import Kind, lines, make_tokenizer

RECIPE = Recipe(num_virtual_tokens=3, steps=4, evaluate_every=4, batch_size=4, snapshot_step=2)
BESIDE = replace(RECIPE, num_virtual_tokens=5, seed=3)
KINDS: dict[str, Kind] = {
    "causal": "decoder",
    "encoder-decoder": "encoder-decoder",
    "encoder": "encoder",
}


def examples(count: int, seed: int) -> Examples:
    items = tuple(
        # Of one to three words, so that rows of a batch differ in length.
        Example(line=at + 1, text=" ".join(row["text"].split()[: 1 + at % 3]), answer=row["label"])
        for at, row in enumerate(lines(2, count, seed))
    )
    return Examples(path=Path("x"), digest=Digest.of(b""), labelled=True, items=items)


def train(model: PreTrainedModel, kind: Kind, *recipes: Recipe) -> list[Tuned]:
    plan = Plan(base=from_module(model), train=examples(24, 1), dev=examples(8, 2))
    return tune(model, recipes, plan, tokenizer=make_tokenizer(kind))


def embeddings(tuned: Tuned) -> torch.Tensor:
    assert tuned.prompt is not None
    data = tuned.prompt.tensors["task_embedding"].data
    return torch.frombuffer(bytearray(data), dtype=torch.float32)


def build(name: str) -> tuple[PreTrainedModel, Kind]:
    architecture = ARCHITECTURES[name]
    classifier = next((each for each in architecture.others if "SequenceClass" in each), None)
    own = {"as_class": classifier, "num_labels": 2} if architecture.kind == "encoder" else {}
    return make(name, **own), KINDS[architecture.kind]  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_each_family_trains_alone_as_beside_another(name: str) -> None:
    model, kind = build(name)
    _, together = train(model, kind, BESIDE, RECIPE)
    (alone,) = train(model, kind, RECIPE)
    assert alone.outcome == together.outcome == "finished"
    torch.testing.assert_close(embeddings(together), embeddings(alone), atol=1e-5, rtol=1e-4)


def test_a_model_that_counts_padding_gets_none() -> None:
    config = RwkvConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=32,
        num_hidden_layers=2,
        attention_hidden_size=32,
        intermediate_size=48,
    )
    torch.manual_seed(0)
    model = RwkvForCausalLM(config)
    _, together = train(model, "decoder", BESIDE, RECIPE)
    (alone,) = train(model, "decoder", RECIPE)
    torch.testing.assert_close(embeddings(together), embeddings(alone), atol=1e-5, rtol=1e-4)


def test_a_model_without_a_place_for_embeddings_is_refused() -> None:
    from transformers import Gemma3nForCausalLM, Gemma3nTextConfig

    config = Gemma3nTextConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        vocab_size_per_layer_input=VOCAB_SIZE,
        hidden_size_per_layer_input=8,
        num_kv_shared_layers=0,
        laurel_rank=4,
        altup_num_inputs=2,
        layer_types=["sliding_attention", "full_attention"],
        activation_sparsity_pattern=[0.0] * 2,
    )
    with pytest.raises(AttachError, match="looks tokens up by their ids once more"):
        train(Gemma3nForCausalLM(config), "decoder", RECIPE)


def test_a_classifier_of_other_classes_is_refused() -> None:
    model = make("bert", as_class="BertForSequenceClassification", num_labels=3)
    with pytest.raises(InvalidDataError, match="2 labels, and the base model tells 3 classes"):
        train(model, "encoder", RECIPE)


def test_labels_take_the_order_of_the_classes_that_bear_their_names() -> None:
    own = {"num_labels": 2, "id2label": {0: "high", 1: "low"}}
    model = make("bert", as_class="BertForSequenceClassification", **own)  # type: ignore[arg-type]
    (tuned,) = train(model, "encoder", RECIPE)
    assert tuned.prompt is not None
    assert tuned.prompt.labels == ("high", "low")
