"""Likelihoods of codes that are compared by their inner products."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot, softplus

from tlkit.functional.samples import autocast_off, check_classes, full_precision, two_samples

__all__ = ["hash_entropy", "pairwise_likelihood"]


def pairwise_likelihood(codes: Tensor, y: Tensor, scale: float = 10.0) -> Tensor:
    r"""Return the weighted negative log-likelihood of which rows are of one class, given the products of their codes.

    .. math::
        \frac1{|S_1|} \sum_{(i,j) \in S_1} [\log(1 + e^{a_{ij}}) - a_{ij}]
        + \frac1{|S_0|} \sum_{(i,j) \in S_0} \log(1 + e^{a_{ij}}), \qquad a_{ij} = \frac{s}{K}\, u_i^\top u_j

    over the pairs of different rows, :math:`S_1` of one class and :math:`S_0` of two. It is HashNet's likelihood with
    each kind of pair weighed by how rare it is, divided by the number of pairs: Cao et al., "HashNet: Deep Learning to
    Hash by Continuation", ICCV 2017, eq. 4, whose factor :math:`\alpha` is :math:`s/K`. Codes of 0 give 2 log 2. A kind
    of pair that does not occur counts 0. Half precision is raised to float32.

    Args:
        codes: ``(n, bits)`` real-valued codes.
        y: ``(n,)`` class of each row.
        scale: The factor s of the inner product of codes in [-1, 1], divided by the number of bits.

    Returns:
        A scalar in float32, or float64 for float64 input.

    Raises:
        ConfigurationError: If ``y`` is no vector of integers with an entry for each row.

    Example:
        >>> pairwise_likelihood(torch.zeros(3, 4), torch.tensor([0, 0, 1]))
        tensor(1.3863)
    """
    check_classes(y, len(codes), "pairwise_likelihood")
    codes = full_precision(codes)
    with autocast_off(codes):
        product = codes @ codes.T * (scale / codes.shape[1])
        others = ~torch.eye(len(codes), dtype=torch.bool, device=codes.device)
        same = y[:, None] == y
        terms = softplus(product) - product * same
        means = [(terms * pairs).sum() / pairs.sum().clamp(min=1) for pairs in (same & others, ~same)]
        return means[0] + means[1]


def hash_entropy(source: Tensor, y: Tensor, target: Tensor, num_classes: int, scale: float = 10.0) -> Tensor:
    r"""Return the mean entropy of the class of target rows, as told by how near source rows of each class are.

    .. math::
        q_{ic} = \frac1{n_c} \sum_{j: y_j = c} e^{a_{ij}}, \quad a_{ij} = \frac{s}{K}\, v_i^\top u_j, \quad
        p_{ic} = \frac{q_{ic}}{\sum_{c'} q_{ic'}}, \qquad -\frac1m \sum_i \sum_c p_{ic} \log p_{ic}

    for the target codes :math:`v_i` and the source codes :math:`u_j`, :math:`n_c` of them of class c. It is least when
    every target row has the source rows of one class alone around it. Venkateswara et al., "Deep Hashing Network for
    Unsupervised Domain Adaptation", CVPR 2017, eq. 6 and 7, where s is the number of bits K and every class has equally
    many source rows. Here classes weigh the same however many rows they have, as there, and one without any has
    probability 0. All is done in log space. Half precision is raised to float32.

    Args:
        source: ``(n, bits)`` real-valued codes.
        y: ``(n,)`` class of each source row.
        target: ``(m, bits)`` real-valued codes.
        num_classes: Number of classes.
        scale: The factor s of the inner product of codes in [-1, 1], divided by the number of bits.

    Returns:
        A scalar in float32, or float64 for float64 input, from 0 to ``log(num_classes)``.

    Raises:
        ConfigurationError: If the two are not floating point matrices of one width, or ``y`` is no vector of integers
            with an entry for each source row.

    Example:
        >>> source, y = torch.tensor([[1.0, 1.0], [-1.0, -1.0]]), torch.tensor([0, 1])
        >>> hash_entropy(source, y, torch.tensor([[0.0, 0.0]]), num_classes=2)  # as near to both: log 2
        tensor(0.6931)
    """
    source, target = two_samples(source, target, "hash_entropy", least=1)
    check_classes(y, len(source), "hash_entropy")
    with autocast_off(source):
        product = target @ source.T * (scale / source.shape[1])
        product = product - product.detach().amax(dim=1, keepdim=True)  # large products differ by their last digits
        members = one_hot(y, num_classes).to(product.dtype)
        rows = members.sum(0)
        present = rows > 0
        # Logarithms of sums of exponentials, by class: the entropy of probabilities that underflow has no gradient.
        classes = y.expand(len(target), -1)
        largest = product.new_full((len(target), num_classes), -torch.inf)
        largest = largest.scatter_reduce(1, classes, product.detach(), "amax").masked_fill(~present, 0)
        sums = (product - largest.gather(1, classes)).exp() @ members
        log_q = sums.masked_fill(~present, 1).log() + largest - rows.clamp(min=1).log()
        log_p = log_q - log_q.masked_fill(~present, -torch.inf).logsumexp(dim=1, keepdim=True)
        return -(log_p.exp() * log_p * present).sum(1).mean()
