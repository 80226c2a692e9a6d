"""How well a search by binary codes finds rows of the query's class."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torchmetrics import Metric

from tlkit.errors import ConfigurationError
from tlkit.functional import average_precision, count_by_distance, pack_codes, precision_within

__all__ = ["HashRetrieval"]


class HashRetrieval(Metric):
    """Mean average precision and precision within Hamming radius 2 of queries against a data base of codes.

    Rows with the query's label are relevant. ``compute`` returns ``map`` over the whole ranking, ``map_at_<k>`` over
    its first ``k`` rows, and ``precision_radius_2``. Codes at equal distance have no order of their own: average
    precision is its mean over all their orders (:func:`tlkit.functional.average_precision`), so that the value does not
    depend on how the data base is sorted. A query counts 0 in all three if nothing in the data base is relevant to it,
    and in ``precision_radius_2`` also if nothing lies within the radius.

    A query that is itself a row of the data base finds itself: among source validation rows, whose codes are in the
    data base, the values are a little too high.

    Args:
        bits: Length of the codes.
        database: Returns the packed codes ``(N, bytes)`` and the labels ``(N,)`` of the data base; asked at each
            update.
        k: Length of the ranking of ``map_at_<k>``.

    Raises:
        ConfigurationError: If ``k`` is not positive.

    Example:
        >>> import torch
        >>> from tlkit.functional import pack_codes
        >>> codes = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
        >>> database = pack_codes(codes), torch.tensor([0, 1, 0])
        >>> metric = HashRetrieval(bits=2, database=lambda: database, k=1)
        >>> metric.update(torch.tensor([[0.3, 0.2]]), torch.tensor([0]))  # relevant are the first and the last of three
        >>> {name: round(value.item(), 3) for name, value in metric.compute().items()}
        {'map': 0.833, 'map_at_1': 1.0, 'precision_radius_2': 0.667}
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False
    sums: Tensor
    count: Tensor

    def __init__(self, bits: int, database: Callable[[], tuple[Tensor, Tensor]], k: int = 100) -> None:
        super().__init__()
        if k < 1:
            raise ConfigurationError(f"HashRetrieval(k=...) is at least 1, got {k}")
        self.bits, self.database, self.k = bits, database, k
        # The data base is known before the queries come, so that sums are enough: no rank has to hold all codes.
        self.add_state("sums", torch.zeros(3, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, outputs: Tensor, y: Tensor) -> None:
        """Look up a batch of ``(B, bits)`` real-valued codes with labels ``(B,)``."""
        codes, labels = self.database()
        counts, relevant = count_by_distance(pack_codes(outputs), y, codes, labels, self.bits)
        scores = (
            average_precision(counts, relevant),
            average_precision(counts, relevant, self.k),
            precision_within(counts, relevant, radius=2),
        )
        self.sums += torch.stack(scores).sum(1)
        self.count += len(y)

    def compute(self) -> dict[str, Tensor]:
        """Return the three means over all queries."""
        means = (self.sums / self.count).float()
        return {"map": means[0], f"map_at_{self.k}": means[1], "precision_radius_2": means[2]}
