"""The page about what is registered: what it compares, what it leaves out, and that nothing in it runs."""

import re
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from promptreg.bases import BaseModel
from promptreg.errors import (
    InvalidValueError,
    MissingDependencyError,
    PromptNotFoundError,
    TaskNotFoundError,
)
from promptreg.prompts import Scalar
from promptreg.registry import Registry
from promptreg.tuning import report
from promptreg.tuning.runs import collect
from samples import base_model, soft_prompt

WHEN = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
SMALL = base_model(name="small")
LARGE = base_model(9, layers=30, name="large")


@pytest.fixture
def registry(upgraded_sqlite_url: str, tmp_path: Path) -> Iterator[Registry]:
    with Registry.open(upgraded_sqlite_url, str(tmp_path / "objects")) as registry:
        yield registry


def scores(test: float, **more: Scalar) -> dict[str, Scalar]:
    return {
        **{f"{split}_accuracy": test for split in ("dev", "test")},
        **{f"{split}_accuracy_low": test - 0.02 for split in ("dev", "test")},
        **{f"{split}_accuracy_high": test + 0.01 for split in ("dev", "test")},
        **more,
    }


def push(
    registry: Registry,
    test: float | None = 0.9,
    *,
    task: str = "news",
    base: BaseModel = SMALL,
    length: int = 4,
    init: str | None = "vocab",
    metrics: Mapping[str, Scalar] | None = None,
    **hyperparameters: Scalar,
) -> str:
    """Push a prompt that no other push made, and return its reference."""
    number = len(registry.list(limit=1000, yanked=True).versions)
    if metrics is None:
        metrics = {} if test is None else scores(test)
    version = registry.push(
        soft_prompt(number, tokens=length, init=init),
        task=task,
        base=base,
        hyperparameters={"learning_rate": 0.1, "steps": 50, "seed": 0} | hyperparameters,
        metrics=metrics,
    ).version
    return version.ref


def record(
    registry: Registry, test: float, method: str, *, base: BaseModel = SMALL, **chosen: Scalar
) -> None:
    registry.record_result(
        task="news", base=base, method=method, hyperparameters=chosen, metrics=scores(test)
    )


def page(registry: Registry, *tasks: str, **options: Any) -> str:
    return report(registry, tasks or ("news",), when=WHEN, **options).html


def plots(html: str) -> dict[str, str]:
    """Return the plots by their titles."""
    found = re.findall(r"<figure>.*?<h3>(.*?)</h3>.*?(<svg.*?</svg>)", html, flags=re.DOTALL)
    return dict(found)


def words(svg: str) -> list[str]:
    """Return the texts in a plot, which has to be well formed."""
    return [" ".join(each.itertext()) for each in ET.fromstring(svg).iter("text")]  # noqa: S314


def missing(html: str) -> dict[str, str]:
    """Return the plots that are left out by their titles, with why and the command."""
    listed = re.search(r'<ul class="missing">(.*?)</ul>', html, flags=re.DOTALL)
    items = re.findall(r"<li>(.*?): (.*?)</li>", listed.group(1) if listed else "", flags=re.DOTALL)
    return dict(items)


def test_one_run_is_a_table_and_says_what_would_fill_the_plots(registry: Registry) -> None:
    push(registry, 0.91)
    made = report(registry, ["news"], when=WHEN)
    assert (made.tasks, made.runs) == (("news",), 1)
    assert plots(made.html) == {}
    left_out = missing(made.html)
    assert set(left_out) == {
        "Prompt tuning beside other methods",
        "Prompt length",
        "Initialisation",
        "Steps",
        "Size of the base model",
        "Seeds",
    }
    assert (
        "all prompts with a score have one prompt length, 4 virtual tokens"
        in (left_out["Prompt length"])
    )
    assert "promptreg sweep --base DIR --task news" in left_out["Seeds"]
    assert "--grid seed=0,1,2" in left_out["Seeds"]
    assert "0.910 [0.890, 0.920]" in made.html
    assert "The best prompt by its dev accuracy is <strong>news@1</strong>" in made.html


def test_lengths_are_compared_where_all_else_is_equal(registry: Registry) -> None:
    for length in (1, 4, 16):
        for init in ("vocab", "random"):
            push(registry, 0.8 + length / 100, length=length, init=init)
    push(registry, 0.95, length=32, learning_rate=0.3)
    drawn = plots(page(registry))
    assert set(drawn) == {"Prompt length", "Initialisation"}
    texts = words(drawn["Prompt length"])
    assert {"1", "4", "16", "init random", "init vocab", "test accuracy"} <= set(texts)
    assert "32" not in texts, "it differs in its rate too"
    assert {"1 token", "4 tokens", "16 tokens", "vocab", "random"} <= set(
        words(drawn["Initialisation"])
    )


def test_lengths_that_were_never_compared_alone_say_so(registry: Registry) -> None:
    push(registry, length=1, learning_rate=0.3)
    push(registry, length=4, learning_rate=0.1)
    push(registry, length=4, learning_rate=0.5)
    html = page(registry)
    assert "other settings differ as well, the best of them is shown" in html
    assert {"1", "4"} <= set(words(plots(html)["Prompt length"]))


def test_seeds_are_shown_as_a_spread(registry: Registry) -> None:
    for seed, test in enumerate((0.90, 0.94, 0.92)):
        push(registry, test, seed=seed)
    html = page(registry)
    assert set(plots(html)) == {"Seeds"}
    assert "all prompts with a score have one prompt length" in missing(html)["Prompt length"]


def test_methods_stand_beside_each_other_on_one_base_model(registry: Registry) -> None:
    push(registry, 0.93)
    record(registry, 0.70, "prompt-design", shots=0)
    record(registry, 0.80, "prompt-design", shots=4)
    record(registry, 0.95, "model-tuning")
    record(registry, 0.99, "model-tuning", base=LARGE)
    html = page(registry)
    texts = words(plots(html)["Prompt tuning beside other methods"])
    rows = ["zero-shot", "few-shot, 4 examples", "prompt tuning, 4 tokens", "model tuning"]
    assert [text for text in texts if text in rows] == rows
    assert [text for text in texts if re.fullmatch(r"0\.\d{3}", text)] == [
        "0.700",
        "0.800",
        "0.930",
        "0.950",
    ]
    assert "Test accuracy on small" in html
    assert "Size of the base model" in plots(html), "model tuning was run on two"


def test_many_lengths_do_not_push_out_the_other_methods(registry: Registry) -> None:
    for length in range(1, 16):
        push(registry, 0.8 + length / 100, length=length)
    record(registry, 0.70, "prompt-design", shots=0)
    record(registry, 0.95, "model-tuning")
    texts = words(plots(page(registry))["Prompt tuning beside other methods"])
    assert {"zero-shot", "model tuning", "prompt tuning, 15 tokens"} <= set(texts)
    assert "prompt tuning, 1 token" not in texts


def test_base_models_are_compared_by_their_size(registry: Registry) -> None:
    for base, test in ((SMALL, 0.8), (LARGE, 0.9)):
        push(registry, test, base=base)
        push(registry, test - 0.1, base=base, learning_rate=0.3)
        record(registry, test - 0.3, "prompt-design", base=base, shots=0)
    texts = words(plots(page(registry))["Size of the base model"])
    assert {"prompt tuning", "prompt design", str(SMALL.parameters)} <= set(texts)


def test_learning_curves_are_drawn_from_what_was_recorded(registry: Registry) -> None:
    push(registry, metrics={"dev_accuracy": 0.9, "dev_curve": "10:0.52 20:0.71 30:0.9"})
    push(registry, metrics={"dev_accuracy": 0.9, "dev_curve": "not a curve"}, learning_rate=0.3)
    push(registry, metrics={"dev_accuracy": 0.9, "dev_curve": "10:0.5"}, learning_rate=0.5)
    drawn = plots(page(registry))
    assert set(drawn) == {"Steps"}
    assert {"steps", "dev score"} <= set(words(drawn["Steps"]))


def test_the_setting_is_chosen_on_dev_data_not_on_test_data(registry: Registry) -> None:
    push(registry, metrics={"dev_accuracy": 0.90, "test_accuracy": 0.80})
    lucky = {"dev_accuracy": 0.70, "test_accuracy": 0.99}
    push(registry, metrics=lucky, learning_rate=0.5)
    registry.record_result(
        task="news",
        base=SMALL,
        method="model-tuning",
        metrics={"dev_accuracy": 0.9, "test_accuracy": 0.85},
    )
    html = page(registry)
    assert "is <strong>news@1</strong>" in html
    texts = words(plots(html)["Prompt tuning beside other methods"])
    assert "0.800" in texts
    assert "0.990" not in texts


@pytest.mark.parametrize(
    ("metrics", "chosen"),
    [
        ({"dev_accuracy": 0.5, "test_accuracy": 0.6}, "test accuracy"),
        ({"dev_exact_match": 0.5, "test_macro_f1": 0.6}, "test macro f1"),
        ({"dev_accuracy": 0.5, "dev_loss": 2.0}, "dev accuracy"),
        ({"test_perplexity": 12.5, "dev_loss": 2.0}, "test perplexity"),
        ({"accuracy": 0.5, "f2": 0.6}, "accuracy"),
    ],
)
def test_the_score_is_chosen_from_what_was_measured(
    registry: Registry, metrics: dict[str, Scalar], chosen: str
) -> None:
    for length in (1, 4):
        push(registry, metrics=metrics, length=length)
    svg = plots(page(registry))["Prompt length"]
    assert any(text.startswith(chosen) for text in words(svg))


def test_one_test_score_among_many_dev_scores_is_not_what_is_compared(registry: Registry) -> None:
    for length in (1, 2, 4, 8):
        push(registry, metrics={"dev_accuracy": 0.5}, length=length)
    push(registry, metrics={"dev_accuracy": 0.5, "test_accuracy": 0.6}, length=16)
    assert "dev accuracy" in words(plots(page(registry))["Prompt length"])


def test_a_low_perplexity_is_the_better_one(registry: Registry) -> None:
    push(registry, metrics={"test_perplexity": 3456.7}, length=1)
    push(registry, metrics={"test_perplexity": 2.5}, length=4)
    html = page(registry)
    assert "The best prompt is <strong>news@2</strong>" in html
    assert "test perplexity (lower is better)" in words(plots(html)["Prompt length"])
    assert html.index("news@2</th>") < html.index("news@1</th>"), "the best comes first"
    assert "3,457" in html


def test_a_person_may_choose_the_metric(registry: Registry) -> None:
    for length in (1, 4):
        push(registry, length=length, metrics={"f2": 0.5, "test_accuracy": 0.5, "verdict": "good"})
        push(registry, task="mail", length=length)
    html = page(registry, "*", metric="f2")
    assert "f2" in words(plots(html)["Prompt length"])
    assert "no run has the metric f2" in missing(html)["All plots"]
    with pytest.raises(InvalidValueError, match=r"choose one of .*f2, test_accuracy"):
        page(registry, "*", metric="verdict")


def test_runs_without_scores_are_listed_and_nothing_is_drawn(registry: Registry) -> None:
    push(registry, None, init=None)
    push(registry, metrics={"test_accuracy": "high", "dev_accuracy": True}, length=1)
    html = page(registry)
    assert plots(html) == {}
    assert "promptreg eval news@2 --base DIR" in missing(html)["All plots"]
    assert "news@1</th>" in html


def test_results_alone_make_a_page(registry: Registry) -> None:
    record(registry, 0.7, "prompt-design", shots=0)
    for seed in (0, 1):
        record(registry, 0.9 + seed / 100, "model-tuning", seed=seed)
    made = report(registry, ["news"], when=WHEN)
    assert made.runs == 3
    assert {"Prompt tuning beside other methods", "Seeds"} == set(plots(made.html))
    assert "The best prompt" not in made.html


def test_several_tasks_are_on_one_page_with_a_table_of_contents(registry: Registry) -> None:
    for task in ("a/x", "a/y", "b"):
        push(registry, task=task)
    made = report(registry, ["b", "a/*", "a/x"], when=WHEN)
    assert (made.tasks, made.runs) == (("a/x", "a/y", "b"), 3)
    assert re.findall(r'<a href="#(task-\d)">(.*?)</a>', made.html) == [
        ("task-1", "a/x"),
        ("task-2", "a/y"),
        ("task-3", "b"),
    ]
    assert "<nav" not in page(registry, "b")


def test_yanked_versions_are_left_out(registry: Registry) -> None:
    push(registry)
    registry.yank(push(registry, length=1), reason="leaked")
    assert report(registry, ["news"], when=WHEN).runs == 1


def test_every_page_of_versions_is_read(registry: Registry) -> None:
    for length in range(1, 6):
        push(registry, length=length)
    found = collect(registry, "news", page=2)
    assert [run.length for run in found["news"]] == [5, 4, 3, 2, 1]


def test_what_draws_may_be_missing(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    push(registry)
    for package in ("matplotlib", "jinja2"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            with pytest.raises(MissingDependencyError, match=rf"{package}.*\[report\]"):
                page(registry)


def test_the_same_runs_give_the_same_page(registry: Registry) -> None:
    for seed in (0, 1):
        for length in (1, 4):
            push(registry, seed=seed, length=length)
    record(registry, 0.95, "model-tuning")
    assert page(registry) == page(registry)
    assert "2026-01-02 03:04 UTC" in page(registry)


HOSTILE = "<script>alert('$x^2$')</script> & \"q\" http://evil.example/\n漢字\x1b[2J"


def test_hostile_texts_stay_texts_and_the_page_asks_for_nothing(
    upgraded_sqlite_url: str, tmp_path: Path
) -> None:
    objects = tmp_path / "objects"
    objects.mkdir()
    with Registry.open(upgraded_sqlite_url, str(objects)) as registry:
        registry._user = HOSTILE
        for length in (1, 4):
            for init in (f"text:{HOSTILE}", "vocab", "\x1b<b>\n&$a$"):
                push(registry, length=length, init=init, template=HOSTILE, optimizer=HOSTILE)
        record(registry, 0.5, "prompt-design", shots=HOSTILE, template=HOSTILE)
        html = page(registry, title=HOSTILE)
    assert "<script" not in html
    assert "$x^2$" in html
    for svg in plots(html).values():
        words(svg)
    without_texts = re.sub(r">[^<]*<|\"[^\"]*evil[^\"]*\"", "><", html)
    assert not re.search(r"https?:|//|@import|url\((?!#)|<link|<img|<iframe", without_texts)
    assert not re.search(r"\son\w+=", without_texts)


def test_what_is_not_registered_is_refused_with_what_makes_it(registry: Registry) -> None:
    with pytest.raises(PromptNotFoundError, match="promptreg tune --task news --base DIR"):
        page(registry)
    with pytest.raises(PromptNotFoundError, match="promptreg tune --task NAME --base DIR"):
        page(registry, "new*")
    push(registry)
    with pytest.raises(TaskNotFoundError, match="did you mean news"):
        page(registry, "newss")
    registry.yank("news@1", reason="leaked")
    with pytest.raises(PromptNotFoundError, match="no prompt and no result"):
        page(registry)


def test_the_page_does_not_tell_where_the_registry_lies(registry: Registry, tmp_path: Path) -> None:
    push(registry)
    assert str(registry).startswith("sqlite:")
    assert "/dev/shm" not in page(registry)  # noqa: S108
    assert str(tmp_path) not in page(registry)
