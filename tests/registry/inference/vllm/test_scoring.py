import math

import torch

from promptreg.inference.vllm.scoring import Question, log_probabilities, questions

LABELS = [(4,), (7, 1), (7, 2, 5), (7, 2, 6)]


def test_each_beginning_of_a_label_is_asked_about_once() -> None:
    assert questions(LABELS) == [
        Question(prefix=(), tokens=(4, 7)),
        Question(prefix=(7,), tokens=(1, 2)),
        Question(prefix=(7, 2), tokens=(5, 6)),
    ]


def test_labels_of_one_token_are_one_question() -> None:
    assert questions([(4,), (5,), (4,)]) == [Question(prefix=(), tokens=(4, 5))]


def test_more_tokens_than_vllm_scores_at_once_are_several_questions() -> None:
    asked = questions([(token,) for token in range(300)])
    assert [len(question.tokens) for question in asked] == [128, 128, 44]
    assert [token for question in asked for token in question.tokens] == list(range(300))


def test_a_label_is_as_probable_as_all_its_tokens() -> None:
    generator = torch.Generator().manual_seed(0)
    tables = {
        question.prefix: torch.randn(8, generator=generator).log_softmax(dim=0).tolist()
        for question in questions(LABELS)
    }
    answers = {
        (prefix, token): value for prefix, row in tables.items() for token, value in enumerate(row)
    }
    found = log_probabilities(LABELS, answers)
    assert found[0] == tables[()][4]
    assert math.isclose(found[1], tables[()][7] + tables[7,][1])
    assert math.isclose(found[3], tables[()][7] + tables[7,][2] + tables[7, 2][6])
