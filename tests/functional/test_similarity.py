"""The likelihoods of codes against loops over rows, and numbers worked by hand."""

import math

import numpy as np
import pytest
import torch

from tlkit.errors import ConfigurationError
from tlkit.functional import hash_entropy, pairwise_likelihood


def by_pairs(codes, y, scale):
    """The weighted likelihood written as in the paper: a loop over pairs, then weights by kind of pair."""
    terms = {True: [], False: []}
    for i in range(len(codes)):
        for j in range(len(codes)):
            if i != j:
                a, same = scale * float(codes[i] @ codes[j]) / codes.shape[1], bool(y[i] == y[j])
                terms[same].append(math.log(1 + math.exp(a)) - a * same)
    count = sum(map(len, terms.values()))
    weights = {same: count / len(found) for same, found in terms.items() if found}  # |S| / |S_1| and |S| / |S_0|
    return sum(weights[same] * sum(found) for same, found in terms.items() if found) / count


@pytest.mark.parametrize("y", [[0, 0, 1, 2, 1, 1], [0, 1, 2, 3, 4, 5], [0] * 6])
def test_the_pairwise_likelihood_is_that_of_a_loop_over_pairs(y):
    codes, y = torch.randn(6, 4, dtype=torch.float64).tanh(), torch.tensor(y)
    assert pairwise_likelihood(codes, y, scale=3.0).item() == pytest.approx(by_pairs(codes, y, 3.0), abs=1e-12)


def test_the_pairwise_likelihood_of_perfect_codes_is_near_zero_and_does_not_overflow():
    codes, y = torch.tensor([[1.0, 1.0], [1.0, 1.0], [-1.0, -1.0]]), torch.tensor([0, 0, 1])
    assert pairwise_likelihood(codes, y, scale=30.0) < 1e-12
    assert pairwise_likelihood(codes, y.flip(0), scale=1e6).item() == pytest.approx(1e6 + 5e5, rel=1e-5)


def by_classes(source, y, target, classes, scale):
    """The entropy of eq. 6 and 7 of the paper, exponentials and all."""
    entropies = []
    for row in target:
        near = np.exp(scale / source.shape[1] * source @ row)
        q = np.array([near[y == c].mean() if (y == c).any() else 0 for c in range(classes)])
        p = q / q.sum()
        entropies.append(-sum(each * math.log(each) for each in p if each > 0))
    return np.mean(entropies)


def test_the_entropy_is_that_of_the_formula():
    random = np.random.default_rng(0)
    source, target = random.uniform(-1, 1, (9, 6)), random.uniform(-1, 1, (4, 6))
    y = np.array([0, 0, 0, 1, 1, 3, 3, 3, 3])  # no row of class 2
    found = hash_entropy(*map(torch.tensor, (source, y, target)), num_classes=4, scale=6.0)
    assert found.item() == pytest.approx(by_classes(source, y, target, 4, 6.0), abs=1e-12)


def test_the_entropy_by_hand():
    # Products over bits: 1 and 0 twice. Of two rows the mean counts: p = e^2 / (e^2 + 1) for class 0.
    source, y = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0]]), torch.tensor([0, 1, 1])
    p = math.e**2 / (math.e**2 + 1)
    expected = -p * math.log(p) - (1 - p) * math.log(1 - p)
    found = hash_entropy(source, y, torch.tensor([[1.0, 1.0]]), num_classes=2, scale=2.0)
    assert found.item() == pytest.approx(expected, abs=1e-6)


def test_the_entropy_pulls_an_undecided_row_to_the_nearer_class():
    source, y = torch.tensor([[1.0, 1.0], [-1.0, -1.0]]), torch.tensor([0, 1])
    target = torch.tensor([[0.1, 0.1], [-0.1, -0.1]], requires_grad=True)
    hash_entropy(source, y, target, num_classes=2).backward()
    assert (target.grad[0] < 0).all()
    assert (target.grad[1] > 0).all()


@pytest.mark.parametrize("scale", [1.0, 1e3, 1e6])
def test_a_class_without_rows_and_one_far_off_have_finite_gradients(scale):
    source = torch.tensor([[1.0, 1.0], [-1.0, -1.0]], requires_grad=True)
    target = torch.tensor([[1.0, 1.0], [0.5, -1.0]], requires_grad=True)
    found = hash_entropy(source, torch.tensor([0, 2]), target, num_classes=4, scale=scale)
    found.backward()
    assert 0 <= found.item() <= math.log(2)
    assert source.grad.isfinite().all()
    assert target.grad.isfinite().all()


def test_gradcheck_with_a_class_that_is_missing():
    source = torch.randn(5, 3, dtype=torch.float64).tanh().requires_grad_()
    target = torch.randn(4, 3, dtype=torch.float64).tanh().requires_grad_()
    y = torch.tensor([0, 0, 2, 2, 3])
    assert torch.autograd.gradcheck(lambda a, b: hash_entropy(a, y, b, num_classes=5), (source, target))
    assert torch.autograd.gradcheck(lambda a: pairwise_likelihood(a, y), source)


@pytest.mark.parametrize("y", [torch.zeros(4, 1), torch.zeros(4), torch.zeros(4, 1).long(), torch.zeros(3).long()])
def test_labels_that_are_no_classes_are_refused(y):
    codes = torch.rand(4, 3)
    with pytest.raises(ConfigurationError, match=r"pairwise_likelihood\(y=...\) takes the class of each of 4 row"):
        pairwise_likelihood(codes, y)
    with pytest.raises(ConfigurationError, match=r"hash_entropy\(y=...\) takes the class of each of 4 row"):
        hash_entropy(codes, y, codes, num_classes=2)
