"""Distillation against a KL divergence written out in numpy float64."""

import math
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bnnlib.training.objectives import distillation


def softmax(rows: np.ndarray) -> np.ndarray:
    e = np.exp(rows - rows.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def parts(student, teacher, labels, temperature, smoothing=0.0):
    """Cross entropy and KL(teacher || student), means over the batch."""
    n, classes = student.shape
    target = np.full((n, classes), smoothing / classes)
    target[np.arange(n), labels] += 1 - smoothing
    hard = -(target * np.log(softmax(student))).sum() / n
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    return hard, (p * (np.log(p) - np.log(q))).sum() / n


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return rng.normal(0, 3, (7, 5)), rng.normal(0, 3, (7, 5)), rng.integers(0, 5, 7)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0, 20.0])
@pytest.mark.parametrize("mix", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_against_numpy(batch, temperature, mix, smoothing):
    student, teacher, labels = batch
    hard, soft = parts(student, teacher, labels, temperature, smoothing)
    loss = distillation(
        torch.tensor(student), torch.tensor(teacher), torch.tensor(labels), temperature, mix, smoothing
    )
    assert loss.item() == pytest.approx((1 - mix) * hard + mix * temperature**2 * soft, rel=1e-12)


def test_by_hand():
    """Teacher 3 to 1, student even, T = 1: KL = 3/4 log(3/2) + 1/4 log(1/2)."""
    kl = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    teacher, student = (
        torch.tensor([[math.log(3.0), 0.0]], dtype=torch.float64),
        torch.zeros(1, 2, dtype=torch.float64),
    )
    assert distillation(student, teacher, torch.tensor([0]), 1.0, 1.0).item() == pytest.approx(kl, rel=1e-12)
    # the same two distributions at T = 2, from logits twice as large: T^2 = 4 times as much
    assert distillation(student, 2 * teacher, torch.tensor([0]), 2.0, 1.0).item() == pytest.approx(
        4 * kl, rel=1e-12
    )


def test_ends_of_the_mix(batch):
    student, teacher, labels = map(torch.tensor, batch)
    other = torch.zeros_like(teacher)
    assert (
        distillation(student, teacher, labels, 3.0, 0.0)
        == distillation(student, other, labels, 3.0, 0.0)
        == F.cross_entropy(student, labels)
    )
    assert distillation(student, teacher, labels, 3.0, 1.0) == distillation(
        student, teacher, (labels + 1) % 5, 3.0, 1.0
    )


def test_a_student_equal_to_its_teacher_learns_nothing(batch):
    teacher = torch.tensor(batch[1])
    student = teacher.clone().requires_grad_()
    loss = distillation(student, teacher, torch.tensor(batch[2]), 3.0, 1.0)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert student.grad.abs().max() < 1e-12


def test_gradient_is_of_the_size_of_the_hard_losss(batch):
    """Why T^2: the soft gradient is mix T (softmax(s/T) - softmax(t/T)) / N, written out."""
    student, teacher, labels = batch
    s = torch.tensor(student, requires_grad=True)
    distillation(s, torch.tensor(teacher), torch.tensor(labels), 4.0, 1.0).backward()
    expected = 4.0 * (softmax(student / 4) - softmax(teacher / 4)) / 7
    np.testing.assert_allclose(s.grad.numpy(), expected, rtol=1e-10, atol=1e-12)


def test_confident_teachers_do_not_overflow():
    """By hand: cross-entropies 0 and ln 2, divergences 400 and ln 2."""
    student, teacher = (
        torch.tensor([[200.0, -200.0], [0.0, 0.0]]),
        torch.tensor([[-200.0, 200.0], [500.0, -500.0]]),
    )
    student.requires_grad_()
    loss = distillation(student, teacher, torch.tensor([0, 1]), 1.0, 0.5)
    loss.backward()
    assert loss.item() == pytest.approx(0.5 * math.log(2) / 2 + 0.5 * (400 + math.log(2)) / 2)
    assert student.grad.flatten().tolist() == pytest.approx([0.25, -0.25, 0, 0], abs=1e-7)


def test_shapes_that_differ_are_named():
    message = "the teacher gives logits of shape (4, 100), the student (4, 10): they must be equal"
    with pytest.raises(ValueError, match=re.escape(message)):
        distillation(torch.zeros(4, 10), torch.zeros(4, 100), torch.zeros(4, dtype=torch.long), 3.0, 0.5)
