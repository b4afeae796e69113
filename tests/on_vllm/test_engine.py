"""The offline engine gives what the same prompts give in process, in batches that mix them."""

from typing import TYPE_CHECKING, Any

import pytest
import torch

import promptreg
from on_vllm.conftest import STORY_LABELS
from promptreg.errors import AttachError, IncompatibleModelError
from promptreg.registry import Registry
from real.bbc import TEMPLATE, TOPICS, read_split
from real.training import SEED

if TYPE_CHECKING:
    from pathlib import Path

    from promptreg.inference.vllm import VLLMEngine
    from promptreg.models import PromptedModel

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("ignore")]

NAMES = ("topic@prod", "story@1", "go-on@1", None)
NEW = 24


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Articles that no prompt was trained on, two for each name of ``NAMES``."""
    return [article.text for article in read_split(test=25, seed=SEED).test[:: 125 // 8][:8]]


@pytest.fixture(scope="module")
def prompts() -> list[str | None]:
    return [*NAMES, *NAMES]


@pytest.fixture(scope="module")
def prompted(model: Any, registry: Registry) -> "PromptedModel":
    """The same prompts in this process."""
    held = promptreg.attach(model, registry.pull("topic@prod"))
    for name in ("story@1", "go-on@1", "topics@1"):
        held.add(registry.pull(name), name=name)
    return held


def alone(prompted: "PromptedModel", tokenizer: Any, text: str, name: str | None) -> list[int]:
    """Return the greedy continuation [NEW] of ``text`` behind one prompt, in this process."""
    ids = tokenizer(text, return_tensors="pt").input_ids
    in_process = "topic@1" if name == "topic@prod" else name
    output = prompted.generate(ids, prompts=[in_process], max_new_tokens=NEW, do_sample=False)
    new: list[int] = output[0, ids.shape[1] :].tolist()
    return new


def test_a_mixed_batch_continues_as_in_process(
    engine: "VLLMEngine", prompted: "PromptedModel", texts: list[str], prompts: list[str | None]
) -> None:
    tokenizer: Any = prompted.tokenizer
    rows = [tokenizer(text).input_ids for text in texts]
    found = engine.generate(rows, prompts=prompts, max_new_tokens=NEW)
    for text, name, said in zip(texts, prompts, found, strict=True):
        assert list(said.token_ids) == alone(prompted, tokenizer, text, name)
        assert said.prompt == name


def test_texts_stand_in_their_prompts_templates(engine: "VLLMEngine", texts: list[str]) -> None:
    filled = [text.join(TEMPLATE.split("{text}")) for text in texts]
    name = "topic@prod"
    rows = [engine.tokenizer(text).input_ids for text in filled]
    as_texts = engine.generate(texts, prompts=[name] * len(texts))
    assert as_texts == engine.generate(rows, prompts=[name] * len(texts))


def test_padding_of_a_tensor_is_left_out(engine: "VLLMEngine", texts: list[str]) -> None:
    rows = [engine.tokenizer(text).input_ids for text in texts[:3]]
    for side in ("left", "right"):
        padded = engine.tokenizer.pad({"input_ids": rows}, padding_side=side, return_tensors="pt")
        names = list(NAMES[:3])
        ragged = engine.generate(rows, prompts=names)
        assert engine.generate(padded.input_ids, padded.attention_mask, prompts=names) == ragged


def test_a_mixed_batch_is_answered_as_in_process(
    engine: "VLLMEngine", prompted: "PromptedModel", texts: list[str], prompts: list[str | None]
) -> None:
    found = engine.answer(texts, prompts=prompts, max_new_tokens=8)
    for text, name, mine in zip(texts, prompts, found, strict=True):
        in_process = "topic@1" if name == "topic@prod" else name
        (theirs,) = prompted.answer([text], prompts=[in_process], max_new_tokens=8)
        assert (mine.prompt, mine.text) == (name, theirs.text)
        assert mine.scores == (theirs.scores and pytest.approx(theirs.scores, abs=1e-4))


def test_every_token_of_a_label_counts(
    engine: "VLLMEngine", prompted: "PromptedModel", texts: list[str]
) -> None:
    tokenizer: Any = prompted.tokenizer
    (answer,) = engine.answer(texts[:1], prompts=["story@1"])
    log_probs = []
    for label in STORY_LABELS:
        text = tokenizer(f"{texts[0]} is a", return_tensors="pt").input_ids
        word = tokenizer(f" {label}", add_special_tokens=False, return_tensors="pt").input_ids
        with torch.no_grad():
            logits = prompted(torch.cat([text, word], dim=1), prompts=["story@1"]).logits
        said = logits[0, text.shape[1] - 1 : -1].log_softmax(dim=-1)  # [M, V]
        log_probs.append(said.gather(1, word.T).sum())
    expected = torch.stack(log_probs).softmax(dim=0).tolist()
    assert answer.scores is not None
    assert list(answer.scores) == list(STORY_LABELS)
    assert list(answer.scores.values()) == pytest.approx(expected, abs=1e-5)


def test_the_trained_prompt_does_its_task(engine: "VLLMEngine") -> None:
    articles = read_split(test=25, seed=SEED).test
    answers = engine.answer([a.text for a in articles], prompts=["topic@prod"] * len(articles))
    right = sum(a.text == article.topic for a, article in zip(answers, articles, strict=True))
    assert right / len(articles) > 0.8
    assert all(set(answer.scores or ()) == set(TOPICS) for answer in answers)


def test_an_ensemble_votes_as_in_process(
    engine: "VLLMEngine", prompted: "PromptedModel", texts: list[str]
) -> None:
    expected = prompted.answer(texts, prompts=["topics@1"] * len(texts))
    found = engine.answer(texts, prompts=["topics@1"] * len(texts))
    for mine, theirs in zip(found, expected, strict=True):
        assert (mine.prompt, mine.text) == ("topics@1", theirs.text)
        assert mine.scores == pytest.approx(theirs.scores, abs=1e-4)
    with pytest.raises(AttachError, match="lets them vote"):
        engine.generate(texts[:1], prompts=["topics@1"])


def test_sampling_follows_its_seed(engine: "VLLMEngine", texts: list[str]) -> None:
    settings: dict[str, Any] = {"temperature": 1.0, "top_p": 0.9, "max_new_tokens": 12}
    first, same, other = (
        engine.generate(texts[:2], prompts=["go-on@1", None], seed=seed, **settings)
        for seed in (1, 1, 2)
    )
    assert first == same
    assert first != other


def test_an_added_prompt_answers_and_a_removed_one_does_not(
    engine: "VLLMEngine", registry: Registry, texts: list[str]
) -> None:
    assert engine.add(registry.pull("topic@2")) == "topic@2"
    assert engine.answer(texts[:1], prompts=["topic@2"])[0].prompt == "topic@2"
    engine.remove("topic@2")
    with pytest.raises(AttachError, match=r"no prompt 'topic@2' is attached; attached are go-on@1"):
        engine.answer(texts[:1], prompts=["topic@2"])


def test_more_names_than_rows_are_refused(engine: "VLLMEngine", texts: list[str]) -> None:
    with pytest.raises(AttachError, match="2 entries, and the batch 1 rows"):
        engine.answer(texts[:1], prompts=["go-on@1", None])


def test_a_text_that_is_too_long_is_told_how_much_fits(engine: "VLLMEngine") -> None:
    long = "word " * 600
    with pytest.raises(
        AttachError, match=r"and 495 fit behind the 16 of topic@prod into a window of 512"
    ):
        engine.generate([engine.tokenizer(long).input_ids], prompts=["topic@prod"])
    with pytest.raises(AttachError, match=r"and 511 fit into a window of 512"):
        engine.generate([long], prompts=[None])


def test_settings_that_vllm_does_not_know_are_refused(
    engine: "VLLMEngine", texts: list[str]
) -> None:
    for settings in ({"temperature": -1.0}, {"bogus": 1}):
        with pytest.raises(AttachError, match="vLLM does not take these settings"):
            engine.generate(texts[:1], prompts=[None], **settings)


def test_an_empty_batch_and_an_empty_row(engine: "VLLMEngine") -> None:
    assert engine.answer([], prompts=[]) == []
    with pytest.raises(AttachError, match="the batch is empty"):
        engine.generate([], prompts=[])
    with pytest.raises(AttachError, match="has no tokens"):
        engine.generate([[]], prompts=[None])
    (said,) = engine.generate([[]], prompts=["go-on@1"], max_new_tokens=2)
    assert len(said.token_ids) == 2


def test_a_wrong_prompt_is_refused_before_vllm_starts(
    registry: Registry, tmp_path_factory: pytest.TempPathFactory, base: "Path"
) -> None:
    from promptreg.inference.vllm import VLLMEngine
    from real.gemma import write_perturbed

    wrong = tmp_path_factory.mktemp("wrong") / "gemma"
    write_perturbed(base, wrong)
    with pytest.raises(IncompatibleModelError, match=r"same-embedding.*mlp\.down_proj"):
        VLLMEngine(wrong, registry.pull("topic@prod"))
