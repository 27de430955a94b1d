"""What a network answered: by class, confused, and with which certainty."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.metrics import confusion_matrix

from accuracy_booster.training.answers import Answers, AnswersSoFar, names_of_outputs


def answers(labels, logits, known=None):
    seen = AnswersSoFar()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    for part in order.split(7):
        seen.add(logits[part], logits[part].argmax(1), labels[part], part)
    names = [f"c{k}" for k in range(logits.shape[1])]
    return Answers.of(names, known or range(len(names)), [seen.all()])


def test_the_confusion_is_scikit_learns():
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(6, (200,), generator=generator) % 5  # class 5 has no images
    logits = torch.randn(200, 6, generator=generator) + torch.eye(6)[labels]
    found = answers(labels, logits)
    expected = confusion_matrix(labels, logits.argmax(1), labels=range(6))
    assert found.confusion.dtype == torch.int64
    assert np.array_equal(found.confusion.numpy(), expected)
    for row, one in zip(expected, found.by_class, strict=True):
        assert (one.images, one.correct) == (row.sum(), row[one.number])
        others = np.delete(row, one.number)
        assert (one.confused_with or ("", 0))[1] == others.max()
    assert [one.top1 for one in found.by_class][5] is None
    worst = [one.top1 for one in found.worst()]
    assert worst == sorted(worst)
    assert len(worst) == 5
    assert found.to_dict()["confusion"] == expected.tolist()


def test_one_class_for_all_images_is_told():
    labels, one = torch.tensor([0, 1, 2, 1]), torch.eye(3)[[1, 1, 1, 1]]
    assert answers(labels, one).all_as_one().startswith("every image was taken for c1:")
    assert answers(labels, torch.eye(3)[[1, 1, 1, 0]]).all_as_one() == ""
    assert answers(torch.ones_like(labels), one).all_as_one() == ""


def test_mistakes_come_with_the_most_certain_first():
    labels = torch.tensor([0, 0, 1, 1])
    logits = torch.tensor([[2.0, 1.0], [0.0, 3.0], [9.0, 0.0], [0.0, 1.0]])
    found = answers(labels, logits)
    assert found.indices.tolist() == [0, 1, 2, 3]
    assert found.mistakes(5) == [2, 1]
    assert found.mistakes(1) == [2]
    probabilities = logits.softmax(1).max(1).values
    assert torch.allclose(found.probabilities, probabilities, atol=1e-6)


def test_outputs_that_are_no_class_of_the_data():
    assert names_of_outputs(["a", "b"], [3, 1], 4) == ["output 0", "b", "output 2", "a"]
    labels = torch.tensor([3, 1, 1])
    logits = torch.eye(4)[torch.tensor([3, 2, 2])]
    found = answers(labels, logits, known=[3, 1])
    assert [(one.name, one.images, one.confused_with) for one in found.by_class] == [
        ("c1", 2, ("c2", 2)),
        ("c3", 1, None),
    ]
