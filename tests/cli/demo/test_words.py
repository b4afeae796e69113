import random

from promptreg_cli.demo import evaluation, words


def test_no_word_is_both_trained_on_and_held_out() -> None:
    trained, held_out = set(words.training_words()), set(words.held_out_words())
    assert not trained & held_out
    assert len(trained) + len(held_out) == 698
    assert {"garden", "penguin", "sleepy", "lion"} <= held_out


def test_an_invented_word_is_three_to_ten_letters_and_never_held_out() -> None:
    rng = random.Random(1)
    invented = {words.invented_word(rng) for _ in range(2000)}
    assert {len(word) for word in invented} == set(range(3, 11))
    assert all(word.isascii() and word.islower() for word in invented)
    assert not invented & set(words.held_out_words())


def test_the_held_out_texts_are_short_enough_and_of_held_out_words_only() -> None:
    texts = evaluation.held_out_texts()
    assert len(set(texts)) == len(texts)
    assert max(map(len, texts)) == words.LONGEST
    assert {word for text in texts for word in text.split()} == set(words.held_out_words())
    assert texts == evaluation.held_out_texts()
