import random

import pytest

from promptreg_cli.demo import tasks, words


@pytest.mark.parametrize(
    ("operation", "text", "answer"),
    [
        (tasks.copy, "garden", "garden"),
        (tasks.reverse, "sleepy lion", "noil ypeels"),
        (tasks.shout, "garden", "GARDEN!"),
        (tasks.shout_backwards, "garden", "NEDRAG!"),
        (tasks.plural, "garden", "gardens"),
        (tasks.plural, "fox", "foxes"),
        (tasks.plural, "city", "cities"),
        (tasks.plural, "day", "days"),
        (tasks.past, "walk", "walked"),
        (tasks.past, "bake", "baked"),
        (tasks.past, "fry", "fried"),
        (tasks.past, "play", "played"),
        (tasks.no_vowels, "garden", "grdn"),
        (tasks.count, "garden", "6"),
    ],
)
def test_an_operation_does_what_its_name_says(operation: object, text: str, answer: str) -> None:
    assert callable(operation)
    assert operation(text) == answer


def test_no_instruction_asks_for_shouting_backwards() -> None:
    assert tasks.shout_backwards not in tasks.INSTRUCTIONS.values()


def test_every_instruction_is_drawn() -> None:
    rng = random.Random(1)
    questions = [tasks.base_example(rng).question for _ in range(500)]
    drawn = {question.split(": ")[0] if ": " in question else "" for question in questions}
    assert drawn == set(tasks.INSTRUCTIONS)


@pytest.mark.parametrize("name", sorted(tasks.TASKS))
def test_the_examples_of_a_prompt_are_bare_texts_of_training_words(name: str) -> None:
    rng = random.Random(1)
    for _ in range(200):
        example = tasks.task_example(name, rng)
        assert set(example.question.split()) <= set(words.training_words())
        assert example.answer == f" -> {tasks.TASKS[name](example.question)}"
