"""A prompted model holds many prompts: their names, their keys and values, coming and going."""

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import CompileConfig

import promptreg
from promptreg import Method, PromptedModel, SoftPrompt, TaskType
from promptreg import Tensor as StoredTensor
from promptreg.errors import (
    AttachError,
    CanaryError,
    ConflictError,
    IncompatibleModelError,
    NonFiniteError,
)
from registry.models.architectures import make
from registry.models.mixed_prompts import attach_all, make_prompts
from registry.models.peft_prompts import left_padded, pull, right_padded

IDS = right_padded(7, 7)["input_ids"]


@pytest.fixture
def prompted() -> Iterator[PromptedModel]:
    model = make("llama")
    with attach_all(model, make_prompts(model)) as prompted:
        yield prompted


def passes(model: Any) -> list[tuple[int, ...]]:
    """Return a list that gets the shape of what each pass of the backbone's first layer reads."""
    seen: list[tuple[int, ...]] = []
    layer = model.model.layers[0]
    layer.register_forward_hook(
        lambda _module, inputs, _output: seen.append(tuple(inputs[0].shape[:2]))
    )
    return seen


def soft(tokens: int, scale: float = 1.0, **fields: Any) -> SoftPrompt:
    numbers = scale * np.random.default_rng(tokens).standard_normal((tokens, 32))
    data = numbers.astype("<f4")
    return SoftPrompt(
        method=Method.PROMPT_TUNING,
        tensors={
            "prompt_embeddings": StoredTensor(dtype="F32", shape=data.shape, data=data.tobytes())
        },
        num_virtual_tokens=tokens,
        token_dim=32,
        **fields,
    )


def test_an_unknown_name_lists_those_that_are_known(prompted: PromptedModel) -> None:
    with pytest.raises(
        AttachError, match=r"no prompt 'spam' is attached; attached are behind, long, p-tuned"
    ):
        prompted(IDS, prompts=["long", "spam"])
    with pytest.raises(AttachError, match="no prompt 'spam'"):
        prompted.generate(IDS, prompts=["long", "spam"])


@pytest.mark.parametrize("names", [["long"], ["long"] * 3, []])
def test_a_wrong_count_of_names_says_how_many_rows_there_are(
    prompted: PromptedModel, names: list[str]
) -> None:
    with pytest.raises(AttachError, match=f"prompts has {len(names)} entries, and the batch 2"):
        prompted(IDS, prompts=names)
    with pytest.raises(AttachError, match="one entry a row"):
        prompted.generate(IDS, prompts=names)


def test_one_text_is_no_list_of_names(prompted: PromptedModel) -> None:
    with pytest.raises(AttachError, match=r"pass prompts=\['long'\] \* 2"):
        prompted(IDS, prompts="long")


def test_several_prompts_want_a_name_for_each_row(prompted: PromptedModel) -> None:
    with pytest.raises(AttachError, match="5 prompts are attached, and nothing says"):
        prompted(IDS)
    with pytest.raises(AttachError, match="5 prompts are attached, and each has a report"):
        prompted.report  # noqa: B018


def test_an_empty_batch_is_refused(prompted: PromptedModel) -> None:
    with pytest.raises(AttachError, match="the batch is empty"):
        prompted(IDS[:0], prompts=[])
    with pytest.raises(AttachError, match="the batch is empty"):
        prompted.generate(IDS[:0], prompts=[])


def test_without_a_prompt_it_is_the_bare_model() -> None:
    model = make("llama")
    expected = model(IDS).logits
    with promptreg.attach(model) as prompted:
        with pytest.raises(AttachError, match="no prompt is attached"):
            prompted(IDS)
        assert prompted(IDS, prompts=[None, None]).logits.equal(expected)


def test_pulled_prompts_are_named_by_their_references() -> None:
    model = make("llama")
    with promptreg.attach(model, pull(model, soft(4))) as prompted:
        assert list(prompted.prompts) == ["sst2@3"]
        by_version = prompted(IDS, prompts=["sst2@3"] * 2).logits
        assert prompted(IDS, prompts=["sst2", "sst2@3"]).logits.equal(by_version)
        assert prompted.prompts["sst2@3"].version is not None
        assert prompted.add(pull(model, soft(5)), name="sst2@prod") == "sst2@prod"
        with pytest.raises(AttachError, match="'sst2' may mean sst2@3, sst2@prod"):
            prompted(IDS, prompts=["sst2", None])


def test_bare_prompts_are_numbered() -> None:
    model = make("llama")
    with promptreg.attach(model, soft(4), soft(5), policy="unchecked") as prompted:
        assert list(prompted.prompts) == ["unregistered-1", "unregistered-2"]


def test_the_same_version_again_changes_nothing_and_another_is_refused() -> None:
    model = make("llama")
    pulled = pull(model, soft(4))
    with promptreg.attach(model, pulled, pulled) as prompted:
        before = prompted.prompts["sst2@3"]
        prompted.add(pulled)
        assert prompted.prompts["sst2@3"] is before
        prompted.add(soft(5), name="mine", policy="unchecked")
        with pytest.raises(ConflictError, match="a prompt named mine is attached already"):
            prompted.add(soft(6), name="mine", policy="unchecked")
        prompted.add(soft(6), name="mine", policy="unchecked", replace=True)
        assert prompted.prompts["mine"].tokens[0].length == 6


def test_a_prompt_that_does_not_fit_leaves_the_others_as_they_were(
    prompted: PromptedModel,
) -> None:
    before = prompted(IDS, prompts=["long", None]).logits
    names = list(prompted.prompts)
    with pytest.raises(IncompatibleModelError):
        prompted.add(pull(make("llama", seed=1), soft(4)), policy="exact")
    with pytest.raises(IncompatibleModelError, match="token_dim"):
        prompted.add(make_prompts(make("llama", hidden_size=64))["short"])
    with pytest.raises(IncompatibleModelError):
        prompted.add(soft(4, task_type=TaskType.SEQ_2_SEQ_LM))
    with pytest.raises(CanaryError):
        prompted.add(pull(prompted.model, soft(4)), policy="canary")
    assert list(prompted.prompts) == names
    assert prompted(IDS, prompts=["long", None]).logits.equal(before)


def test_if_one_of_several_does_not_fit_none_is_attached() -> None:
    model = make("llama").train()
    with pytest.raises(IncompatibleModelError):
        promptreg.attach(model, pull(model, soft(4)), pull(make("llama", seed=1), soft(5)))
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_removed_prompt_is_unknown(prompted: PromptedModel) -> None:
    prompted.remove("long")
    with pytest.raises(AttachError, match="no prompt 'long' is attached"):
        prompted(IDS, prompts=["long", None])
    with pytest.raises(AttachError, match="no prompt 'long' is attached"):
        prompted.remove("long")


def test_a_prompts_keys_and_values_are_computed_once() -> None:
    model = make("llama")
    with promptreg.attach(model, policy="unchecked") as prompted:
        seen = passes(model)
        prompted.add(soft(4), name="a")
        prompted.add(soft(6), name="b")
        assert seen == [(1, 4), (1, 6)]
        del seen[:]
        for _ in range(3):
            prompted(IDS, prompts=["a", "b"])
        prompted.generate(IDS, prompts=["b", None], max_new_tokens=1)
        assert {shape[1] for shape in seen} == {7}


def test_prompts_that_were_attached_together_are_warmed_together() -> None:
    model = make("llama")
    seen = passes(model)
    with promptreg.attach(model, soft(4), soft(6), policy="unchecked") as prompted:
        assert seen == []
        prompted(IDS, prompts=list(prompted.prompts))
        assert seen == [(2, 6), (2, 7)]


def test_keys_and_values_are_dropped_with_their_prompt(prompted: PromptedModel) -> None:
    tables = prompted._prompts.tables
    before = tables.nbytes
    assert before > 0
    (tokens,) = prompted.prompts["long"].tokens
    size = tables.of([tokens], kept=lambda _: True)[tokens].nbytes
    prompted.remove("long")
    assert tables.nbytes == before - size


def test_keys_and_values_are_dropped_when_the_base_model_changes(prompted: PromptedModel) -> None:
    parameter = next(prompted.model.parameters())
    with torch.no_grad():
        parameter.mul_(2)
    with pytest.raises(AttachError, match="weights changed while the prompt was attached"):
        prompted(IDS, prompts=["long", None])
    assert prompted._prompts.tables.nbytes == 0


def test_those_used_last_are_kept_within_the_bytes_allowed() -> None:
    model = make("llama")
    a_token = 2 * 2 * 2 * 8 * 4  # layers, keys and values, heads, width, float32
    with promptreg.attach(model, policy="unchecked", key_value_bytes=12 * a_token) as prompted:
        for name, tokens in (("a", 4), ("b", 5), ("c", 3)):
            prompted.add(soft(tokens), name=name)
        seen = passes(model)
        expected = prompted(IDS, prompts=["a", "b"]).logits
        prompted.add(soft(6), name="d", warm=False)
        prompted(IDS, prompts=["d", "a"])  # c goes, then b
        assert prompted._prompts.tables.nbytes == 10 * a_token
        del seen[:]
        assert torch.allclose(prompted(IDS, prompts=["a", "b"]).logits, expected, atol=1e-6)
        assert seen == [(1, 5), (2, 7)]


def test_a_batch_that_needs_more_bytes_than_allowed_runs_all_the_same() -> None:
    model = make("llama")
    prompts = make_prompts(model)
    rows = ["long", "short"]
    with attach_all(model, prompts) as prompted:
        expected = prompted(IDS, prompts=rows).logits
    with attach_all(model, prompts, key_value_bytes=0) as prompted:
        assert torch.allclose(prompted(IDS, prompts=rows).logits, expected, atol=1e-6)
        assert prompted._prompts.tables.nbytes == 0


def test_a_prompt_removed_while_a_batch_runs_ends_that_batch_well(prompted: PromptedModel) -> None:
    expected = prompted(IDS, prompts=["long", "short"]).logits
    running, removed = threading.Event(), threading.Event()

    def wait(*_: object) -> None:
        running.set()
        assert removed.wait(30)

    hook = prompted.model.get_submodule("model.layers.0").register_forward_pre_hook(wait)
    found: list[torch.Tensor] = []
    batch = threading.Thread(
        target=lambda: found.append(prompted(IDS, prompts=["long", "short"]).logits)
    )
    batch.start()
    assert running.wait(30)
    prompted.remove("long")
    removed.set()
    batch.join()
    hook.remove()
    assert found[0].equal(expected)
    assert "long" not in prompted.prompts


def test_a_row_without_numbers_leaves_the_others_their_output() -> None:
    model = make("llama", dtype=torch.float16)
    how: dict[str, Any] = {"max_new_tokens": 5, "eos_token_id": None}
    with promptreg.attach(model, soft(4), policy="unchecked") as prompted:
        prompted.add(soft(5, 1e6), name="bad", warm=False)
        expected = prompted.generate(IDS, prompts=["unregistered-1", None], do_sample=False, **how)
        for sampled in (False, True):
            with pytest.raises(NonFiniteError, match="row 1 are not finite, with bad") as raised:
                prompted.generate(IDS, prompts=["unregistered-1", "bad"], do_sample=sampled, **how)
            assert raised.value.rows == (1,)
            output: Any = raised.value.output
            if not sampled:
                assert output[0].equal(expected[0])
        with pytest.raises(AttachError, match="keys and values of the prompt that are not finite"):
            prompted.add(soft(5, 1e6), name="worse")
        assert "worse" not in prompted.prompts


def test_each_row_gets_its_own_prompts_classifier() -> None:
    model = make("bert")
    made = {name: _with_classifier(seed) for seed, name in enumerate(("a", "b"))}
    batch = right_padded(9, 6, 3)
    with promptreg.attach(model, policy="unchecked") as prompted:
        for name, prompt in made.items():
            prompted.add(prompt, name=name)
        rows: list[str | None] = ["b", None, "a"]
        logits = prompted(**batch, prompts=rows).logits
        for row, chosen in enumerate(rows):
            own = {key: tensor[row : row + 1] for key, tensor in batch.items()}
            alone = prompted(**own, prompts=[chosen]).logits
            torch.testing.assert_close(logits[row : row + 1], alone, rtol=1e-5, atol=1e-6)
        assert not torch.allclose(
            prompted(**batch, prompts=["a"] * 3).logits, prompted(**batch, prompts=["b"] * 3).logits
        )


def test_modules_that_cannot_differ_from_row_to_row_are_refused() -> None:
    model = make("bert")
    model.get_submodule("classifier").register_module("norm", nn.LayerNorm(32))
    norm = {"modules_to_save.classifier.norm.weight": _stored(np.ones(32, dtype="<f4"))}
    with promptreg.attach(model, policy="unchecked") as prompted:
        for name in ("a", "b"):
            prompt = soft(4)
            prompted.add(
                SoftPrompt(
                    method=prompt.method,
                    tensors={**prompt.tensors, **norm},
                    num_virtual_tokens=4,
                    token_dim=32,
                ),
                name=name,
            )
        with pytest.raises(AttachError, match=r"classifier.norm, a LayerNorm.*batch of its own"):
            prompted(IDS, prompts=["a", "b"])


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2"])
def test_a_compiled_decoder_with_a_static_cache_gives_the_same(name: str) -> None:
    model = make(name)
    batch = left_padded(9, 6, 3)
    rows = ["long", "prefix", None]
    how: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    # The compiler's own code generation needs a C compiler; that it traces the decoder whole does not.
    compiled: Any = CompileConfig(backend="eager", fullgraph=True, mode=None)  # type: ignore[arg-type]
    compiled._compile_all_devices = True
    torch._dynamo.reset()
    with attach_all(model, make_prompts(model)) as prompted:
        expected = prompted.generate(**batch, prompts=rows, **how)
        for _ in range(2):
            found = prompted.generate(
                **batch,
                prompts=rows,
                cache_implementation="static",
                compile_config=compiled,
                **how,
            )
            assert found.equal(expected)
        caches = prompted._static
        first = caches._cache
        prompted.generate(**batch, prompts=rows[::-1], cache_implementation="static", **how)
        assert caches._cache is first


def _with_classifier(seed: int) -> SoftPrompt:
    rng = np.random.default_rng(seed)
    tensors = {
        "prompt_embeddings": _stored(rng.standard_normal((4, 32)).astype("<f4")),
        "modules_to_save.classifier.weight": _stored(rng.standard_normal((3, 32)).astype("<f4")),
        "modules_to_save.classifier.bias": _stored(rng.standard_normal(3).astype("<f4")),
    }
    return SoftPrompt(
        method=Method.PROMPT_TUNING, tensors=tensors, num_virtual_tokens=4, token_dim=32
    )


def _stored(numbers: Any) -> StoredTensor:
    return StoredTensor(dtype="F32", shape=numbers.shape, data=numbers.tobytes())
