"""Text in, text out: templates, labels, votes; each as put together by hand on the bare base model."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import promptreg
from promptreg import PromptedModel, SoftPrompt, Tensor, artifacts
from promptreg.ensembles import members_of
from promptreg.errors import AttachError, InvalidValueError, NonFiniteError
from promptreg.layouts import member_name
from promptreg.prompts import Method, Vote
from promptreg_cli.demo import base_directory, prompt_directory
from registry.models.architectures import make
from registry.models.mixed_prompts import make_prompts, to_torch
from registry.models.test_attached import soft

LABELS = ("yes", "no", "maybe")
TEXTS = ["garden", "a stone", "leaf"]


@pytest.fixture(scope="module")
def base() -> Any:
    model: Any = AutoModelForCausalLM.from_pretrained(base_directory(), dtype=torch.float32)
    return model.eval()


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(base_directory())


@pytest.fixture(scope="module")
def reverse() -> SoftPrompt:
    return artifacts.read(prompt_directory("reverse"))


@pytest.fixture(scope="module")
def shout() -> SoftPrompt:
    return artifacts.read(prompt_directory("shout"))


@pytest.fixture
def prompted(base: Any, reverse: SoftPrompt, shout: SoftPrompt) -> Iterator[PromptedModel]:
    with promptreg.attach(base, policy="unchecked") as prompted:
        prompted.add(reverse, name="reverse")
        prompted.add(replace(shout, template="{text} ->"), name="shout")
        prompted.add(replace(reverse, labels=LABELS, template="{text}?"), name="labels")
        yield prompted


def by_hand(base: Any, tokenizer: Any, prompt: SoftPrompt, filled: str) -> list[float]:
    """Return how likely each label is behind a filled template: one full pass a label."""
    scores = []
    for label in LABELS:
        ids = tokenizer(filled)["input_ids"]
        own = tokenizer(f" {label}", add_special_tokens=False)["input_ids"]
        embedded = base.get_input_embeddings()(torch.tensor([ids + own]))
        with torch.no_grad():
            logits = base(inputs_embeds=torch.cat([to_torch(prompt)[None], embedded], dim=1)).logits
        log_probs = logits[0, -len(own) - 1 : -1].log_softmax(dim=-1)
        scores.append(float(log_probs[range(len(own)), own].sum()))
    return torch.tensor(scores).softmax(dim=0).tolist()


def test_a_file_of_mixed_tasks_is_answered_in_one_batch(prompted: PromptedModel) -> None:
    found = prompted.answer(
        ["garden", "garden", "garden"], prompts=["reverse", "shout", None], max_new_tokens=12
    )
    assert [answer.text for answer in found] == ["-> nedrag", "GARDEN!", "-> garden"]
    assert [answer.prompt for answer in found] == ["reverse", "shout", None]
    assert found[0].scores is None


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_labels_are_as_likely_as_all_their_tokens(
    prompted: PromptedModel, base: Any, tokenizer: Any, reverse: SoftPrompt, batch_size: int
) -> None:
    found = prompted.answer(TEXTS, prompts=["labels"] * 3, batch_size=batch_size)
    for text, answer in zip(TEXTS, found, strict=True):
        assert answer.scores is not None
        assert tuple(answer.scores) == LABELS
        expected = by_hand(base, tokenizer, reverse, f"{text}?")
        assert list(answer.scores.values()) == pytest.approx(expected, rel=1e-4)
        assert answer.scores[answer.text] == max(answer.scores.values())


def test_labels_and_continuations_may_share_a_call(prompted: PromptedModel) -> None:
    rows = ["labels", "reverse", None]
    together = prompted.answer(TEXTS, prompts=rows, max_new_tokens=6)
    alone = [
        prompted.answer([text], prompts=[row], max_new_tokens=6)[0]
        for text, row in zip(TEXTS, rows, strict=True)
    ]
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    assert together[0].scores == pytest.approx(alone[0].scores, rel=1e-4)


def test_prompts_of_several_lengths_may_have_labels_of_several_tokens(
    base: Any, tokenizer: Any
) -> None:
    made = {
        name: soft_wide(base, length, labels)
        for name, length, labels in (
            ("short", 3, LABELS),
            ("long", 9, ("a", "b")),
            ("middle", 6, LABELS[::-1]),
        )
    }
    with promptreg.attach(base, policy="unchecked", tokenizer=tokenizer) as prompted:
        for name, prompt in made.items():
            prompted.add(prompt, name=name)
        rows = ["short", "long", "middle"]
        found = prompted.answer(TEXTS, prompts=rows)
        for text, row, answer in zip(TEXTS, rows, found, strict=True):
            (alone,) = prompted.answer([text], prompts=[row])
            assert answer.scores == pytest.approx(alone.scores, rel=1e-4)
            if made[row].labels == LABELS:
                expected = by_hand(base, tokenizer, made[row], text)
                assert list((answer.scores or {}).values()) == pytest.approx(expected, rel=1e-4)


def test_labels_of_one_token_need_one_pass(base: Any, reverse: SoftPrompt, tokenizer: Any) -> None:
    labels = ("a", "b")
    prompt = replace(reverse, labels=labels, template="{text} ")
    with promptreg.attach(base, prompt, policy="unchecked") as prompted:
        (answer,) = prompted.answer(["garden"])
        ids = tokenizer("garden ", return_tensors="pt")["input_ids"]
        own = [tokenizer(label, add_special_tokens=False)["input_ids"][0] for label in labels]
        logits = prompted(ids, prompts=["unregistered-1"]).logits[0, -1]
        expected = logits.log_softmax(dim=0)[own].softmax(dim=0).tolist()
    assert answer.scores is not None
    assert list(answer.scores.values()) == pytest.approx(expected, rel=1e-4)


def test_a_label_that_begins_another_is_refused(base: Any, reverse: SoftPrompt) -> None:
    prompt = replace(reverse, labels=("no", "nope"))
    with (
        promptreg.attach(base, prompt, policy="unchecked") as prompted,
        pytest.raises(InvalidValueError, match="its tokens begin those of 'nope'"),
    ):
        prompted.answer(["garden"])


def test_an_encoder_decoder_scores_labels_to_their_end(tokenizer: Any) -> None:
    model = make("t5", vocab_size=len(tokenizer))
    prompt = replace(make_prompts(model)["short"], labels=("no", "nope"))
    with promptreg.attach(model, prompt, policy="unchecked", tokenizer=tokenizer) as prompted:
        found = prompted.answer(TEXTS)
        start = model.config.decoder_start_token_id
        for text, answer in zip(TEXTS, found, strict=True):
            ids = tokenizer(text, return_tensors="pt")["input_ids"]
            expected = []
            for label in prompt.labels:
                own = tokenizer(label, add_special_tokens=False)["input_ids"]
                own = [*own, tokenizer.eos_token_id]
                decoder = torch.tensor([[start, *own[:-1]]])
                with torch.no_grad():
                    logits = prompted(ids, decoder_input_ids=decoder).logits[0]
                expected.append(float(logits.log_softmax(dim=-1)[range(len(own)), own].sum()))
            assert answer.scores is not None
            wanted = torch.tensor(expected).softmax(dim=0).tolist()
            assert list(answer.scores.values()) == pytest.approx(wanted, rel=1e-4)


def test_a_classifier_answers_with_its_classes(tokenizer: Any) -> None:
    model = make("bert", vocab_size=len(tokenizer))
    prompt = replace(make_prompts(model, prefix=False)["short"], labels=("x", "y", "z"))
    with promptreg.attach(model, prompt, policy="unchecked", tokenizer=tokenizer) as prompted:
        found = prompted.answer(TEXTS)
        bare = prompted.answer(TEXTS, prompts=[None] * 3)
        ids = tokenizer(TEXTS[0], return_tensors="pt")["input_ids"]
        expected = prompted(ids).logits.softmax(dim=-1)[0].tolist()
    assert found[0].scores == pytest.approx(dict(zip("xyz", expected, strict=True)), rel=1e-4)
    assert set(bare[0].scores or ()) == {"LABEL_0", "LABEL_1", "LABEL_2"}


@pytest.mark.parametrize("how", [Vote.MEAN, Vote.MAJORITY])
def test_an_ensemble_votes(base: Any, reverse: SoftPrompt, shout: SoftPrompt, how: Vote) -> None:
    other = replace(
        reverse,
        tensors={"prompt_embeddings": reverse.tensors["prompt_embeddings"]},
    )
    members = [replace(each, labels=LABELS) for each in (reverse, shout, other)]
    ensemble = SoftPrompt(
        method=Method.ENSEMBLE,
        tensors={
            member_name(index, name): tensor
            for index, member in enumerate(members)
            for name, tensor in member.tensors.items()
        },
        num_virtual_tokens=sum(member.num_virtual_tokens for member in members),
        token_dim=reverse.token_dim,
        task_type=reverse.task_type,
        labels=LABELS,
        members=("t@1", "t@2", "t@3"),
        vote=how,
    )
    assert len(members_of(ensemble)) == 3
    with promptreg.attach(base, policy="unchecked") as prompted:
        prompted.add(ensemble, name="all")
        names = [prompted.add(member, name=f"m{at}") for at, member in enumerate(members)]
        passes: list[int] = []
        hook = base.register_forward_hook(lambda *_: passes.append(1))
        found = prompted.answer(TEXTS, prompts=["all"] * 3)
        hook.remove()
        assert len(passes) == 2  # the texts, and their labels' further tokens
        for row, text in enumerate(TEXTS):
            own = prompted.answer([text] * 3, prompts=names)
            mean = {label: sum((each.scores or {})[label] for each in own) / 3 for label in LABELS}
            votes = [each.text for each in own]
            if how is Vote.MEAN:
                assert found[row].scores == pytest.approx(mean, rel=1e-4)
                assert found[row].text == max(mean, key=lambda label: mean[label])
            else:
                assert found[row].text == max(
                    LABELS, key=lambda label: (votes.count(label), mean[label])
                )
                assert found[row].scores == {label: votes.count(label) / 3 for label in LABELS}
        with pytest.raises(AttachError, match="all is an ensemble of 3 prompts, which vote"):
            prompted(torch.tensor([[5, 6]]), prompts=["all"])


def test_a_text_that_does_not_fit_says_how_much_does(prompted: PromptedModel) -> None:
    window = prompted.config.max_position_embeddings
    with pytest.raises(AttachError, match=rf"text 1 is \d+ tokens long .* window of {window}"):
        prompted.answer(["a", "b" * window], prompts=["labels", "reverse"])


def test_nothing_to_answer_is_nothing(prompted: PromptedModel) -> None:
    assert prompted.answer([], prompts=[]) == []


def test_a_text_without_tokens_is_refused(tokenizer: Any) -> None:
    model = make("llama", vocab_size=len(tokenizer))
    with (
        promptreg.attach(model, tokenizer=_Silent(), policy="unchecked") as prompted,  # type: ignore[arg-type]
        pytest.raises(AttachError, match="text 1 has no tokens"),
    ):
        prompted.answer(["a", ""], prompts=[None, None])


def test_without_a_tokenizer_it_says_how_to_give_one() -> None:
    with (
        promptreg.attach(make("llama")) as prompted,
        pytest.raises(AttachError, match="pass attach"),
    ):
        prompted.answer(["a"], prompts=[None])


def test_rows_without_numbers_leave_the_others_their_answers(tokenizer: Any) -> None:
    model = make("llama", vocab_size=len(tokenizer), dtype=torch.float16)
    with promptreg.attach(model, tokenizer=tokenizer, policy="unchecked") as prompted:
        prompted.add(soft(4, labels=LABELS), name="good")
        prompted.add(soft(5, 1e6, labels=LABELS), name="bad", warm=False)
        prompted.add(soft(6, 1e6), name="worse", warm=False)
        expected = prompted.answer(["a"], prompts=["good"])
        with pytest.raises(
            NonFiniteError, match="row 1, 3 are not finite, with bad, worse"
        ) as raised:
            prompted.answer(
                ["a", "a", "a", "a"], prompts=["good", "bad", None, "worse"], max_new_tokens=3
            )
        answers: Any = raised.value.output
        assert answers[0].text == expected[0].text
        assert answers[1] is None
        assert answers[2].text is not None
        assert answers[3] is None


def soft_wide(base: Any, tokens: int, labels: tuple[str, ...]) -> SoftPrompt:
    return replace(make_prompts(base)["short"], **_drawn(base, tokens), labels=labels)


def _drawn(base: Any, tokens: int) -> dict[str, Any]:
    shape = (tokens, base.config.hidden_size)
    numbers = np.random.default_rng(tokens).standard_normal(shape).astype("<f4")
    stored = Tensor(dtype="F32", shape=shape, data=numbers.tobytes())
    return {"tensors": {"prompt_embeddings": stored}, "num_virtual_tokens": tokens}


class _Silent:
    """A tokenizer that finds no tokens in an empty text, as one without special tokens does."""

    eos_token_id = None

    def __call__(self, texts: list[str]) -> dict[str, list[list[int]]]:
        return {"input_ids": [[5] * len(text) for text in texts]}
