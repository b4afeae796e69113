"""A prompt attaches to the base model that it was trained on, as far as the policy asks, and to no other."""

import copy
import gc
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import peft
import pytest
import torch
from transformers import PreTrainedModel

import promptreg
from promptreg.errors import (
    AttachError,
    CanaryError,
    ConfigurationError,
    IncompatibleModelError,
    LossyBaseModelError,
    UnreadableBaseModelError,
)
from promptreg.fingerprints import Verdict
from promptreg.models import Policy
from promptreg.prompts import SoftPrompt, TaskType, Tensor
from registry.models.architectures import ARCHITECTURES
from registry.models.peft_prompts import left_padded, pair_of, pull, right_padded

NAMES = sorted(ARCHITECTURES)
CHECKING = [Policy.EXACT, Policy.SAME_EMBEDDING, Policy.SAME_SHAPE]


def fine_tuned(base: PreTrainedModel) -> PreTrainedModel:
    """Return ``base`` with one matrix of its last layer changed."""
    changed = copy.deepcopy(base)
    body = [p for name, p in changed.named_parameters() if ".1." in name and p.ndim == 2]
    with torch.no_grad():
        body[-1].add_(0.01)
    return changed


def re_embedded(base: PreTrainedModel) -> PreTrainedModel:
    changed = copy.deepcopy(base)
    embedding: Any = changed.get_input_embeddings()
    with torch.no_grad():
        embedding.weight.add_(0.01)
    return changed


def ask(prompted: Any) -> torch.Tensor:
    logits: torch.Tensor = prompted(**left_padded(), **decoder_inputs(prompted)).logits
    return logits


def decoder_inputs(prompted: Any) -> dict[str, Any]:
    if not prompted.config.is_encoder_decoder:
        return {}
    return {"decoder_input_ids": right_padded(4, 4, 4)["input_ids"]}


@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_attaches_to_its_own_base_model(name: str) -> None:
    pair = pair_of(name, "PROMPT_TUNING")
    pulled = pull(pair.base, pair.prompt)
    with promptreg.attach(pair.base, pulled) as prompted:
        report = prompted.report
        assert ask(prompted).isfinite().all()
    assert report.verdict is Verdict.EXACT
    assert (report.reference, report.policy) == ("sst2@3", Policy.EXACT)
    assert report.expected == report.actual == str(pulled.base)
    assert pulled.base.table is not None
    assert report.compared == len(pulled.base.table.records)
    assert "sst2@3" in str(report)


def test_a_task_embedding_makes_no_difference_to_what_a_prompt_does() -> None:
    pair = pair_of("llama", "PROMPT_TUNING")
    rows = pair.prompt.tensors["prompt_embeddings"]
    early = replace(rows, data=bytes(len(rows.data)))
    tuned = replace(pair.prompt, tensors={"prompt_embeddings": rows, "task_embedding": early})
    answers = []
    for prompt in (pair.prompt, tuned):
        with promptreg.attach(pair.base, pull(pair.base, prompt)) as prompted:
            answers.append(ask(prompted))
    assert torch.equal(*answers)
    canaries = [promptreg.record_canary(pair.base, prompt) for prompt in (pair.prompt, tuned)]
    assert canaries[0] == canaries[1]


@pytest.mark.parametrize("name", NAMES)
def test_a_fine_tuned_body_is_refused_unless_the_caller_accepts_it(name: str) -> None:
    pair = pair_of(name, "PROMPT_TUNING")
    pulled, other = pull(pair.base, pair.prompt), fine_tuned(pair.base)
    with pytest.raises(IncompatibleModelError) as refused:
        promptreg.attach(other, pulled)
    assert refused.value.verdict == "same-embedding"
    assert len(refused.value.differing) == 1
    assert refused.value.differing[0] in str(refused.value)
    assert "policy='same-embedding'" in str(refused.value)
    for policy in CHECKING[1:]:
        with promptreg.attach(other, pulled, policy=policy) as prompted:
            assert prompted.report.verdict is Verdict.SAME_EMBEDDING
            assert "same-embedding" in str(prompted.report)


def test_other_weights_need_the_policy_that_accepts_them() -> None:
    pair = pair_of("llama", "PROMPT_TUNING")
    pulled, other = pull(pair.base, pair.prompt), re_embedded(pair.base)
    for policy in CHECKING[:2]:
        with pytest.raises(IncompatibleModelError, match="policy='same-shape'"):
            promptreg.attach(other, pulled, policy=policy)
    with promptreg.attach(other, pulled, policy="same-shape") as prompted:
        assert prompted.report.verdict is Verdict.SAME_SHAPE


def test_the_error_names_five_tensors_and_counts_the_rest() -> None:
    pair = pair_of("llama", "PROMPT_TUNING")
    other = copy.deepcopy(pair.base)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.01)
    with pytest.raises(IncompatibleModelError) as refused:
        promptreg.attach(other, pull(pair.base, pair.prompt))
    assert len(refused.value.differing) == 5
    assert refused.value.more == len(list(other.parameters())) - 5


@pytest.mark.parametrize("policy", CHECKING)
def test_no_policy_accepts_a_model_of_another_shape(policy: Policy) -> None:
    pair = pair_of("llama", "PROMPT_TUNING")
    deeper = pair_of("llama", "PROMPT_TUNING", num_hidden_layers=3)
    with pytest.raises(IncompatibleModelError, match="no policy overrides that") as refused:
        promptreg.attach(deeper.base, pull(pair.base, pair.prompt), policy=policy)
    assert refused.value.verdict == "incompatible"


def test_a_refused_model_is_left_as_it_was() -> None:
    pair = pair_of("llama", "PROMPT_TUNING")
    other = fine_tuned(pair.base).train()
    with pytest.raises(IncompatibleModelError):
        promptreg.attach(other, pull(pair.base, pair.prompt))
    assert all(parameter.requires_grad for parameter in other.parameters())
    assert other.training


@pytest.mark.parametrize("policy", [p for p in Policy if p is not Policy.UNCHECKED])
def test_a_bare_prompt_has_nothing_to_check(policy: Policy) -> None:
    pair = pair_of("llama", "PROMPT_TUNING")
    with pytest.raises(AttachError, match="pass policy='unchecked'"):
        promptreg.attach(pair.base, pair.prompt, policy=policy)


def test_a_pulled_prompt_is_not_left_unchecked() -> None:
    pair = pair_of("llama", "PROMPT_TUNING")
    with pytest.raises(AttachError, match=r"attach its \.prompt alone"):
        promptreg.attach(pair.base, pull(pair.base, pair.prompt), policy="unchecked")
    with promptreg.attach(pair.base, pair.prompt, policy="unchecked") as prompted:
        assert prompted.report.verdict is None
        assert "were not checked" in str(prompted.report)


def test_an_unknown_policy_lists_the_known_ones() -> None:
    pair = pair_of("llama", "PROMPT_TUNING")
    with pytest.raises(ConfigurationError, match="exact, same-embedding, same-shape, canary"):
        promptreg.attach(pair.base, pair.prompt, policy="lenient")


def test_a_base_without_its_table_says_how_to_get_it() -> None:
    pair = pair_of("llama", "PROMPT_TUNING")
    pulled = pull(pair.base, pair.prompt)
    bare = replace(pulled, base=replace(pulled.base, table=None))
    promptreg.attach(pair.base, bare).detach()
    with pytest.raises(AttachError, match=r"Registry\.pull, which brings the table"):
        promptreg.attach(fine_tuned(pair.base), bare)


def test_a_backbone_alone_is_the_same_base_model() -> None:
    pair = pair_of("llama", "PROMPT_TUNING")
    with promptreg.attach(pair.base.base_model, pull(pair.base, pair.prompt)) as prompted:
        assert prompted.report.verdict is Verdict.EXACT
        assert prompted.report.headless
        assert "its head apart" in str(prompted.report)


@pytest.mark.parametrize(
    ("name", "method", "changes"),
    [
        ("llama", "PROMPT_TUNING", {"token_dim": 16}),
        ("llama", "PREFIX_TUNING", {"num_layers": 7}),
        ("llama", "PREFIX_TUNING", {"token_dim": 4}),
        ("llama", "PROMPT_TUNING", {"task_type": TaskType.SEQ_2_SEQ_LM}),
        ("t5", "PROMPT_TUNING", {"task_type": TaskType.CAUSAL_LM}),
        ("bert", "PROMPT_TUNING", {"task_type": TaskType.CAUSAL_LM}),
    ],
)
def test_a_prompt_of_another_shape_or_kind_is_refused_whatever_the_policy(
    name: str, method: str, changes: dict[str, Any]
) -> None:
    pair = pair_of(name, method)
    prompt = replace(pair.prompt, **changes)
    with pytest.raises(IncompatibleModelError, match="no policy overrides that"):
        promptreg.attach(pair.base, prompt, policy="unchecked")


def test_tensors_that_contradict_the_prompt_are_refused() -> None:
    pair = pair_of("llama", "PROMPT_TUNING")
    prompt = replace(pair.prompt, num_virtual_tokens=6)
    with pytest.raises(AttachError, match="contradict what it says of itself"):
        promptreg.attach(pair.base, prompt, policy="unchecked")


def test_a_multitask_prompt_needs_a_task_and_others_have_none() -> None:
    multitask = pair_of("llama", "MULTITASK_PROMPT_TUNING")
    for wrong in (None, 3, -1):
        with pytest.raises(AttachError, match="attach with task_id=0 to 2"):
            promptreg.attach(multitask.base, multitask.prompt, policy="unchecked", task_id=wrong)
    single = pair_of("llama", "PROMPT_TUNING")
    with pytest.raises(AttachError, match="leave task_id out"):
        promptreg.attach(single.base, single.prompt, policy="unchecked", task_id=0)


def test_what_is_no_transformers_model_is_refused() -> None:
    prompt = pair_of("llama", "PROMPT_TUNING").prompt
    for wrong in (torch.nn.Linear(2, 2), "a model"):
        with pytest.raises(UnreadableBaseModelError):
            promptreg.attach(wrong, prompt, policy="unchecked")  # type: ignore[arg-type]


def test_casts_are_in_the_report() -> None:
    pair = pair_of("llama", "PROMPT_TUNING")
    half = copy.deepcopy(pair.base).bfloat16()
    with promptreg.attach(half, pair.prompt, policy="unchecked") as prompted:
        assert prompted.report.conversions == ("float32 to bfloat16, rounded",)
        assert ask(prompted).dtype is prompted.dtype is torch.bfloat16
    whole = replace(
        pair.prompt,
        tensors={"prompt_embeddings": Tensor(dtype="F32", shape=(5, 32), data=bytes(5 * 32 * 4))},
    )
    with promptreg.attach(half, whole, policy="unchecked") as prompted:
        assert prompted.report.conversions == ("float32 to bfloat16, nothing lost",)


def count_hooks(base: PreTrainedModel) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in base.modules())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", ["PROMPT_TUNING", "PREFIX_TUNING"])
def test_detaching_leaves_the_base_model_as_it_was(name: str, method: str) -> None:
    pair = pair_of(name, method)
    base = copy.deepcopy(pair.base).train()
    next(base.parameters()).requires_grad_(requires_grad=False)
    flags = {n: p.requires_grad for n, p in base.named_parameters()}
    weights = {n: t.clone() for n, t in base.state_dict().items()}
    attributes, config, hooks = set(vars(base)), base.config.to_dict(), count_hooks(base)
    prompted = promptreg.attach(base, pair.prompt, policy="unchecked")
    assert not any(parameter.requires_grad for parameter in base.parameters())
    assert not base.training
    ask(prompted)
    if base.can_generate():
        prompted.generate(**right_padded(), max_new_tokens=3)
    prompted.detach()
    assert {n: p.requires_grad for n, p in base.named_parameters()} == flags
    assert all(module.training for module in base.modules())
    assert all(tensor.equal(weights[n]) for n, tensor in base.state_dict().items())
    assert set(vars(base)) == attributes
    assert base.config.to_dict() == config
    assert count_hooks(base) == hooks


def test_the_base_model_stays_usable_bare() -> None:
    pair = pair_of("llama", "PROMPT_TUNING")
    batch = right_padded()
    expected = pair.base(**batch).logits
    with promptreg.attach(pair.base, pair.prompt, policy="unchecked") as prompted:
        ask(prompted)
        assert prompted.model is pair.base
        assert pair.base(**batch).logits.equal(expected)


def test_training_the_base_model_is_refused_while_a_prompt_is_attached() -> None:
    pair = pair_of("llama", "PROMPT_TUNING")
    base = copy.deepcopy(pair.base)
    with promptreg.attach(base, pair.prompt, policy="unchecked") as prompted:
        optimizer = torch.optim.SGD(base.parameters(), lr=1.0)
        before = {n: p.clone() for n, p in base.named_parameters()}
        assert not prompted(**right_padded(), labels=right_padded()["input_ids"]).loss.requires_grad
        optimizer.step()
        assert all(p.equal(before[n]) for n, p in base.named_parameters())
        base.lm_head.requires_grad_()
        for call in (prompted, prompted.generate):
            with pytest.raises(AttachError, match=r"its lm_head\.weight requires a gradient"):
                call(**right_padded())
        base.requires_grad_(requires_grad=False)
        ask(prompted)
        with pytest.raises(AttachError, match="detach the prompt to train"):
            prompted.train()
        assert prompted.eval() is prompted
        assert prompted.train(mode=False) is prompted


def step_with_old_gradients(base: Any) -> None:
    torch.optim.AdamW(base.parameters(), lr=0.1).step()


def load_a_state(base: Any) -> None:
    base.load_state_dict({n: t + 1 for n, t in base.state_dict().items()})


def write_in_place(base: Any) -> None:
    with torch.no_grad():
        base.lm_head.weight[3, 3] += 1


def replace_data(base: Any) -> None:
    base.lm_head.weight.data = base.lm_head.weight.data + 1


def replace_a_parameter(base: Any) -> None:
    weight = base.lm_head.weight.detach() + 1
    base.lm_head.weight = torch.nn.Parameter(weight, requires_grad=False)


def replace_a_layer(base: Any) -> None:
    base.model.layers[0] = base.model.layers[1]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (step_with_old_gradients, r"model\.embed_tokens\.weight, .* and \d+ more"),
        (load_a_state, r"model\.embed_tokens\.weight, .* and \d+ more"),
        (write_in_place, r"lm_head\.weight"),
        (replace_data, r"lm_head\.weight"),
        (replace_a_parameter, r"lm_head\.weight"),
        (replace_a_layer, r"\d+ parameters are gone"),
    ],
)
def test_weights_that_changed_while_a_prompt_was_attached_are_not_run(
    change: Callable[[Any], None], name: str
) -> None:
    pair = pair_of("llama", "PROMPT_TUNING")
    base: Any = copy.deepcopy(pair.base)
    pulled = pull(base, pair.prompt)
    base(**right_padded()).logits.sum().backward()
    with promptreg.attach(base, pulled) as prompted:
        ask(prompted)
        change(base)
        for call in (prompted, prompted.generate):
            with pytest.raises(AttachError, match=f"weights changed .*: {name}; detach and"):
                call(**right_padded())
    with pytest.raises(IncompatibleModelError):
        promptreg.attach(base, pulled)


@pytest.mark.parametrize("path", ["", "model.layers.1.self_attn"])
def test_a_base_model_in_training_mode_is_not_run(path: str) -> None:
    pair = pair_of("llama", "PROMPT_TUNING")
    base: Any = copy.deepcopy(pair.base)
    with promptreg.attach(base, pair.prompt, policy="unchecked") as prompted:
        base.get_submodule(path).train()
        for call in (prompted, prompted.generate):
            with pytest.raises(AttachError, match=f"{path or 'it'} is in training mode; call eval"):
                call(**right_padded())
        base.eval()
        ask(prompted)


def test_detaching_keeps_what_was_set_while_the_prompt_was_attached() -> None:
    pair = pair_of("llama", "PROMPT_TUNING")
    base: Any = copy.deepcopy(pair.base)
    base.eval().requires_grad_(requires_grad=False)
    with promptreg.attach(base, pair.prompt, policy="unchecked"):
        base.model.train()
        base.lm_head.requires_grad_()
    assert all(module.training for module in base.model.modules())
    assert not base.training
    assert [n for n, p in base.named_parameters() if p.requires_grad] == ["lm_head.weight"]


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_an_attached_prompt_is_not_copied(duplicate: Callable[[object], object]) -> None:
    pair = pair_of("llama", "PROMPT_TUNING")
    with promptreg.attach(pair.base, pair.prompt, policy="unchecked") as prompted:
        with pytest.raises(AttachError, match="attach the prompt again, in the other process"):
            duplicate(prompted)
        ask(prompted)


def test_what_is_no_prompt_says_how_to_get_one() -> None:
    pair = pair_of("llama", "PROMPT_TUNING")
    pulled = pull(pair.base, pair.prompt)
    for wrong, words in (
        (None, r"not a NoneType; registry\.pull\('TASK'\) fetches it"),
        ("sst2", r"not a str; registry\.pull\('sst2'\) fetches it"),
        (pulled.version, r"not a PromptVersion; registry\.pull\('sst2@3'\) fetches it"),
    ):
        with pytest.raises(AttachError, match=words):
            promptreg.attach(pair.base, wrong)  # type: ignore[arg-type]


def test_a_remembered_fingerprint_need_not_be_believed() -> None:
    pair = pair_of("llama", "PROMPT_TUNING")
    base: Any = copy.deepcopy(pair.base)
    pulled = pull(base, pair.prompt)
    base.model.embed_tokens.weight.data[7] = 0
    with pytest.raises(IncompatibleModelError):
        promptreg.attach(base, pulled, cache=False)
    with pytest.raises(IncompatibleModelError):
        promptreg.attach(base, pulled)


def test_what_weights_do_not_show_is_noted() -> None:
    pair = pair_of("llama", "PROMPT_TUNING")
    base: Any = copy.deepcopy(pair.base)
    with promptreg.attach(base, pair.prompt, policy="unchecked") as prompted:
        assert prompted.report.notes == ()
        assert "note" not in str(prompted.report)
    base.model.norm.register_forward_hook(lambda *_: None)
    base.model.layers[1].mlp.forward = base.model.layers[0].mlp.forward
    base.config.num_hidden_layers = 1
    with promptreg.attach(base, pair.prompt, policy="unchecked") as prompted:
        assert prompted.report.notes == (
            "model.norm has forward hooks",
            "model.layers.1.mlp has a forward pass of its own in place of its class's",
            "it has 2 layers, and its config says 1",
        )
        assert "note: model.norm has forward hooks" in str(prompted.report)


@pytest.mark.parametrize("name", NAMES)
def test_an_ordinary_base_model_has_nothing_to_note(name: str) -> None:
    pair = pair_of(name, "PROMPT_TUNING")
    base = copy.deepcopy(pair.base)
    with promptreg.attach(base, pair.prompt, policy="unchecked") as prompted:
        prompted(**left_padded(), output_hidden_states=True, **decoder_inputs(prompted))
    with promptreg.attach(base, pair.prompt, policy="unchecked") as prompted:
        assert prompted.report.notes == ()


def test_a_detached_prompt_says_so() -> None:
    pair = pair_of("llama", "PROMPT_TUNING")
    with promptreg.attach(pair.base, pair.prompt, policy="unchecked") as prompted:
        assert "attached to a LlamaForCausalLM" in repr(prompted)
    prompted.detach()
    assert "detached from" in repr(prompted)
    for call in (prompted, prompted.generate):
        with pytest.raises(AttachError, match="the prompts were detached; attach them again"):
            call(**right_padded())


def test_prompts_on_one_base_model_are_views_of_their_own() -> None:
    first, second = (pair_of("llama", method) for method in ("PROMPT_TUNING", "PREFIX_TUNING"))
    base = copy.deepcopy(first.base)
    expected = []
    for pair in (first, second):
        with promptreg.attach(base, pair.prompt, policy="unchecked") as prompted:
            expected.append(ask(prompted))
    one, two = (promptreg.attach(base, p.prompt, policy="unchecked") for p in (first, second))
    assert ask(one).equal(expected[0])
    assert ask(two).equal(expected[1])
    one.detach()
    one.detach()
    assert not any(parameter.requires_grad for parameter in base.parameters())
    assert ask(two).equal(expected[1])
    two.detach()
    assert all(parameter.requires_grad for parameter in base.parameters())


def test_a_dropped_prompt_lets_go_of_its_base_model() -> None:
    pair = pair_of("llama", "PROMPT_TUNING")
    base = copy.deepcopy(pair.base)
    prompted = promptreg.attach(base, pair.prompt, policy="unchecked")
    assert not next(base.parameters()).requires_grad
    del prompted
    gc.collect()
    assert next(base.parameters()).requires_grad


@pytest.mark.parametrize("wrap", [torch.nn.DataParallel, "compile"])
def test_wrapped_models_are_seen_through(wrap: Any) -> None:
    pair = pair_of("llama", "PROMPT_TUNING")
    pulled = pull(pair.base, pair.prompt)
    model: Any = torch.compile(pair.base, backend="eager") if wrap == "compile" else wrap(pair.base)
    with promptreg.attach(pair.base, pulled) as prompted:
        expected, ids = ask(prompted), prompted.generate(**left_padded(), max_new_tokens=4)
    with promptreg.attach(model, pulled) as prompted:
        assert prompted.report.verdict is Verdict.EXACT
        torch.testing.assert_close(ask(prompted), expected)
        assert prompted.generate(**left_padded(), max_new_tokens=4).equal(ids)


def test_pefts_wrapper_is_seen_through_and_its_adapters_are_not() -> None:
    pair = pair_of("llama", "PROMPT_TUNING")
    pulled = pull(pair.base, pair.prompt)
    with promptreg.attach(pair.base, pulled) as prompted:
        expected = ask(prompted)
    with promptreg.attach(pair.peft_model, pulled) as prompted:
        torch.testing.assert_close(ask(prompted), expected)
    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], r=2)
    adapted = peft.get_peft_model(copy.deepcopy(pair.base), config)
    for model in (adapted, adapted.get_base_model()):
        with pytest.raises(AttachError, match=r"take them out with PeftModel\.unload\(\)"):
            promptreg.attach(model, pulled)


def another_head(base: PreTrainedModel) -> PreTrainedModel:
    """Return ``base`` with the new classifier that loading it for classification gives it."""
    changed: Any = copy.deepcopy(base)
    with torch.no_grad():
        changed.classifier.weight.add_(1.0)
    return changed  # type: ignore[no-any-return]


def test_a_prompts_own_classifier_is_used_and_the_base_models_kept() -> None:
    pair = pair_of("bert", "PROMPT_TUNING")
    pulled = pull(pair.base, pair.prompt)
    with promptreg.attach(pair.base, pulled) as prompted:
        expected = ask(prompted)
    base: Any = another_head(pair.base)
    before, bare = base.classifier.weight.clone(), base(**right_padded()).logits
    with promptreg.attach(base, pulled) as prompted:
        assert prompted.report.verdict is Verdict.EXACT
        assert ask(prompted).equal(expected)
        assert base(**right_padded()).logits.equal(bare)
    assert base.classifier.weight.equal(before)


def test_a_classifier_that_the_base_model_has_no_place_for_is_refused() -> None:
    pair = pair_of("bert", "PROMPT_TUNING")
    wider = pair_of("bert", "PROMPT_TUNING", num_labels=7)
    with pytest.raises(AttachError, match="num_labels=3"):
        promptreg.attach(wider.base, pair.prompt, policy="unchecked")
    with pytest.raises(AttachError, match="AutoModelForSequenceClassification"):
        promptreg.attach(pair.base.base_model, pair.prompt, policy="unchecked")


def quantised(base: PreTrainedModel) -> PreTrainedModel:
    """Return ``base`` with its linear layers in eight bits, as PyTorch does it."""
    quantise: Any = torch.ao.quantization.quantize_dynamic
    model: PreTrainedModel = quantise(copy.deepcopy(base), {torch.nn.Linear}, dtype=torch.qint8)
    return model


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:torch.quantize:UserWarning")
@pytest.mark.parametrize("name", ["llama", "bert", "t5"])
def test_a_quantised_base_model_comes_in_by_its_canary(name: str) -> None:
    pair = pair_of(name, "PROMPT_TUNING")
    canary = promptreg.record_canary(pair.base, pair.prompt)
    pulled, base = pull(pair.base, pair.prompt, canary), quantised(pair.base)
    with pytest.raises(LossyBaseModelError, match="policy='canary'"):
        promptreg.attach(base, pulled)
    with promptreg.attach(base, pulled, policy="canary") as prompted:
        assert prompted.report.canary is not None
        assert prompted.report.canary.passed
        assert prompted.report.actual is None
        assert "came back" in str(prompted.report)
        assert ask(prompted).isfinite().all()


def test_a_wrong_base_model_does_not_come_in_by_its_canary() -> None:
    pair = pair_of("llama", "PROMPT_TUNING")
    pulled = pull(pair.base, pair.prompt, promptreg.record_canary(pair.base, pair.prompt))
    wrong = re_embedded(pair.base)
    with torch.no_grad():
        for parameter in wrong.model.layers[1].parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    with pytest.raises(CanaryError, match="did not come back"):
        promptreg.attach(wrong, pulled, policy="canary")
    assert all(parameter.requires_grad for parameter in wrong.parameters())


def test_without_a_recorded_canary_that_policy_has_nothing_to_go_by() -> None:
    pair = pair_of("llama", "PROMPT_TUNING")
    with pytest.raises(CanaryError, match="none was recorded when it was pushed"):
        promptreg.attach(pair.base, pull(pair.base, pair.prompt), policy="canary")


def test_importing_the_names_needs_no_torch() -> None:
    code = (
        "import sys, promptreg.models, promptreg.models.attaching; "
        "print({'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_prompt_takes_no_gradients() -> None:
    pair = pair_of("llama", "PROMPT_TUNING")
    assert isinstance(pair.prompt, SoftPrompt)
    with promptreg.attach(pair.base, pair.prompt, policy="unchecked") as prompted:
        (tokens,) = next(iter(prompted.prompts.values())).tokens
        assert tokens.embeddings is not None
        assert not tokens.embeddings.requires_grad
