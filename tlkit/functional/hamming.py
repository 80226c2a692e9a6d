"""Binary codes: packing, Hamming distances, and the scores of a search by Hamming distance."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from tlkit.errors import ConfigurationError
from tlkit.functional.deterministic import cumulative_sum

__all__ = [
    "average_precision",
    "count_by_distance",
    "hamming_distance",
    "hamming_search",
    "pack_codes",
    "precision_within",
]

_AT_ONCE = 2**20  # pairs of codes that are compared at a time: 8 MiB in int64


def pack_codes(outputs: Tensor) -> Tensor:
    """Pack the signs of real-valued codes, eight bits a byte.

    Bit ``j`` is 1 where ``outputs[:, j]`` is above 0. The first of eight is the highest of its byte, as in
    ``numpy.packbits``; the last byte is filled up with zeros.

    Args:
        outputs: ``(B, bits)`` real-valued codes.

    Returns:
        ``(B, ceil(bits / 8))`` uint8.

    Example:
        >>> pack_codes(torch.tensor([[1.0, -1.0, -1.0, -1.0, -1.0, -1.0, -1.0, 1.0, 0.5]]))
        tensor([[129, 128]], dtype=torch.uint8)
    """
    if outputs.ndim != 2:
        raise ConfigurationError(f"pack_codes takes a matrix of shape (rows, bits), got {tuple(outputs.shape)}")
    bits = F.pad((outputs > 0).to(torch.uint8), (0, -outputs.shape[1] % 8))
    bits = bits.view(len(bits), bits.shape[1] // 8, 8)
    shifts = torch.arange(7, -1, -1, dtype=torch.uint8, device=outputs.device)
    packed: Tensor = (bits << shifts).sum(2, dtype=torch.uint8)
    return packed


def hamming_distance(queries: Tensor, database: Tensor) -> Tensor:
    """Return the number of bits in which each query differs from each code of the data base.

    The bits of 64-bit words are counted by shifts and masks, without unpacking a code.

    Args:
        queries: ``(Q, bytes)`` uint8, as :func:`pack_codes` makes them.
        database: ``(N, bytes)`` uint8.

    Returns:
        ``(Q, N)`` int64.

    Raises:
        ConfigurationError: If the two are not packed codes of one width.

    Example:
        >>> hamming_distance(torch.tensor([[0], [255]], dtype=torch.uint8), torch.tensor([[3]], dtype=torch.uint8))
        tensor([[2],
                [6]])
    """
    for name, codes in (("queries", queries), ("database", database)):
        if codes.ndim != 2 or codes.dtype != torch.uint8 or codes.shape[1] != queries.shape[1]:
            raise ConfigurationError(
                f"hamming_distance({name}=...) takes packed codes, uint8 of shape (rows, bytes), both as wide; got "
                f"{codes.dtype} of shape {tuple(codes.shape)}: pack them with pack_codes"
            )
    first, second = _words(queries), _words(database)
    distance = torch.zeros(len(first), len(second), dtype=torch.int64, device=first.device)
    for word in range(first.shape[1]):
        distance += _count_ones(first[:, None, word] ^ second[None, :, word])
    return distance


def _words(packed: Tensor) -> Tensor:
    """Return packed codes as 64-bit words, filled up with zeros."""
    return F.pad(packed, (0, -packed.shape[1] % 8)).contiguous().view(torch.int64)


def _count_ones(words: Tensor) -> Tensor:
    """Count the ones of 64-bit words in place: in pairs of bits, in fours, in bytes, then all bytes at once."""
    # A shift draws the sign in on the left; each mask has zeros there.
    words -= (words >> 1) & 0x5555555555555555
    fours = (words >> 2) & 0x3333333333333333
    words &= 0x3333333333333333
    words += fours
    words += words >> 4
    words &= 0x0F0F0F0F0F0F0F0F
    words *= 0x0101010101010101  # the highest byte is the sum of all eight, 64 at most
    words >>= 56
    return words


def hamming_search(queries: Tensor, database: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Find the nearest codes of each query; of equal distances the one that comes first in the data base is first.

    Args:
        queries: ``(Q, bytes)`` uint8, as :func:`pack_codes` makes them.
        database: ``(N, bytes)`` uint8.
        k: How many to find; at most N are there.

    Returns:
        Distances and row numbers in the data base, both ``(Q, min(k, N))`` int64, nearest first.

    Example:
        >>> codes = torch.tensor([[0], [7], [1], [0]], dtype=torch.uint8)
        >>> hamming_search(codes[:1], codes, k=3)
        (tensor([[0, 0, 1]]), tensor([[0, 3, 2]]))
    """
    rows = len(database)
    found = []
    for part in _parts(len(queries), rows):
        # Distance and row as one number, so that no two are equal and the order is the same on every device.
        keys = hamming_distance(queries[part], database) * rows + torch.arange(rows, device=database.device)
        found.append(keys.topk(min(k, rows), dim=1, largest=False, sorted=True).values)
    nearest = torch.cat(found) if found else torch.zeros(0, min(k, rows), dtype=torch.int64)
    return nearest // max(rows, 1), nearest % max(rows, 1)


def count_by_distance(
    queries: Tensor, query_labels: Tensor, database: Tensor, labels: Tensor, bits: int
) -> tuple[Tensor, Tensor]:
    """Count the codes of a data base, and those with the query's label, at each distance from each query.

    Args:
        queries: ``(Q, bytes)`` uint8, as :func:`pack_codes` makes them.
        query_labels: ``(Q,)``.
        database: ``(N, bytes)`` uint8.
        labels: ``(N,)``.
        bits: Length of the codes.

    Returns:
        All codes and the relevant ones, both ``(Q, bits + 1)`` int64: column ``d`` is at distance ``d``.

    Example:
        >>> codes, labels = torch.tensor([[0], [1], [3], [2]], dtype=torch.uint8), torch.tensor([0, 0, 0, 1])
        >>> count_by_distance(codes[:1], labels[:1], codes, labels, bits=2)
        (tensor([[1, 2, 1]]), tensor([[1, 1, 1]]))
    """
    counts = [torch.zeros(0, bits + 1, 2, dtype=torch.int64, device=queries.device)]
    for part in _parts(len(queries), len(database)):
        distance = hamming_distance(queries[part], database)
        relevant = query_labels[part, None] == labels
        row = torch.arange(len(distance), device=distance.device)[:, None]
        cell = ((row * (bits + 1) + distance) * 2 + relevant).flatten()
        counts.append(cell.bincount(minlength=len(distance) * (bits + 1) * 2).view(-1, bits + 1, 2))
    whole = torch.cat(counts)
    return whole.sum(2), whole[:, :, 1]


def _parts(queries: int, rows: int) -> Iterator[slice]:
    """Yield slices of the queries, so that only so many pairs are held in memory at a time."""
    step = max(_AT_ONCE // max(rows, 1), 1)
    for start in range(0, queries, step):
        yield slice(start, start + step)


def average_precision(counts: Tensor, relevant: Tensor, k: int | None = None) -> Tensor:
    r"""Return the average precision of each query, its mean over all orders of the codes at equal distance.

    .. math::
        \mathrm{AP@}k = \frac1{\min(R, k)} \sum_{i=1}^{k} \mathrm{rel}_i\, \frac1i \sum_{j \le i} \mathrm{rel}_j

    Short codes have many equal distances: an order that depends on how the data base happens to be sorted would move
    the value by points. The mean over all orders is exact and needs only the counts at each distance: of a group of
    :math:`n` codes, :math:`r` of them relevant, behind :math:`N` codes with :math:`R'` relevant ones, position
    :math:`i` holds a relevant one with probability :math:`r/n`, and then :math:`R' + 1 + (i - 1)(r - 1)/(n - 1)` are
    expected up to there. McSherry and Najork, "Computing Information Retrieval Performance Measures Efficiently in the
    Presence of Tied Scores", ECIR 2008.

    With ``k`` the sum is divided by the most that could be found, as in the evaluation of rankings. Part of the
    hashing literature divides by the number found among the first ``k``, which is never smaller and rewards a query
    that finds one code early and no other.

    Args:
        counts: ``(Q, distances)``, number of codes at each distance (:func:`count_by_distance`).
        relevant: ``(Q, distances)``, number of relevant ones among them.
        k: Look at the first ``k`` only; all by default.

    Returns:
        ``(Q,)`` float64; 0 for a query to which nothing is relevant.

    Example:
        >>> average_precision(torch.tensor([[1, 2]]), torch.tensor([[1, 1]]))  # 1 + (2/2 or 2/3), halved
        tensor([0.9167], dtype=torch.float64)
    """
    n, r = counts.double(), relevant.double()
    before, found = counts.cumsum(1) - counts, relevant.cumsum(1) - relevant  # of integers: deterministic
    total = counts.sum(1)
    last = total if k is None else total.clamp(max=k)
    looked_at = (last[:, None] - before).clamp(min=0).minimum(counts)
    harmonic = _harmonic(int(total.max()) if len(total) else 0, counts.device)
    # Sums over the positions i = 1, 2, ... that are looked at: of 1 / (N + i), and of (i - 1) / (N + i).
    inverse = harmonic[before + looked_at] - harmonic[before]
    shifted = looked_at - (before + 1) * inverse
    others = (r - 1) / (n - 1).clamp(min=1)
    summed = (r / n.clamp(min=1) * ((found + 1) * inverse + others * shifted)).sum(1)
    possible = r.sum(1) if k is None else r.sum(1).clamp(max=k)
    return torch.where(possible > 0, summed / possible.clamp(min=1), 0.0)


def _harmonic(size: int, device: torch.device) -> Tensor:
    """Return the harmonic numbers H(0) to H(size)."""
    terms = torch.arange(size + 1, dtype=torch.float64, device=device)
    terms[1:] = 1 / terms[1:]
    return cumulative_sum(terms, dim=0)


def precision_within(counts: Tensor, relevant: Tensor, radius: int = 2) -> Tensor:
    """Return the share of relevant codes among those within a Hamming radius of each query.

    Args:
        counts: ``(Q, distances)``, number of codes at each distance (:func:`count_by_distance`).
        relevant: ``(Q, distances)``, number of relevant ones among them.
        radius: Largest distance that is looked at.

    Returns:
        ``(Q,)`` float64; 0 for a query with no code within the radius, as is usual in the hashing literature.

    Example:
        >>> precision_within(torch.tensor([[1, 2, 1, 9]]), torch.tensor([[1, 1, 0, 9]]))
        tensor([0.5000], dtype=torch.float64)
    """
    near, hits = counts[:, : radius + 1].sum(1).double(), relevant[:, : radius + 1].sum(1).double()
    return hits / near.clamp(min=1)
