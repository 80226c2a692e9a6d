"""Data sets that the tests of loaders share."""

import random

import numpy as np
import torch
from torch.utils.data import Dataset, TensorDataset

from tlkit.data import DomainDataModule
from tlkit.data.rows import DomainRows, SideRows


class Noisy(Dataset):
    """Rows read one by one, with noise from all three generators that augmentations draw from."""

    def __init__(self, size, offset=0.0):
        self.size, self.offset = size, offset

    def __len__(self):
        return self.size

    def __getitem__(self, row):
        noise = [torch.rand(()).item(), random.random(), np.random.rand()]  # noqa: NPY002
        return torch.tensor([self.offset + row, *noise]), row % 2


def tensors(size, offset=0):
    return TensorDataset(torch.arange(size, dtype=torch.float32)[:, None] + offset, torch.arange(size) % 2)


def side(*sizes, data=tensors, labels=True):
    """A side of domains "a", "b", ... whose rows hold 100 * domain + position."""
    return SideRows(
        [DomainRows("abc"[i], i, "train", data(size, 100 * i), 2, labels=labels) for i, size in enumerate(sizes)]
    )


class Lines(DomainDataModule):
    """Rows numbered 0, 1, ... (plus 1000 for each domain), labels alternating; read one by one with ``noisy``."""

    domains = ["long", "short", "other"]
    classes = ["even", "odd"]
    sizes = {"long": 100, "short": 30, "other": 50}

    def __init__(self, *args, noisy=False, **kwargs):
        super().__init__(*args, **kwargs)
        self.noisy = noisy

    def dataset(self, domain, split):
        size, offset = self.sizes[domain], 1000 * self.domains.index(domain)
        rows = self.split(domain, np.arange(size) % 2)[split]
        if self.noisy:
            return torch.utils.data.Subset(Noisy(size, offset), rows)
        return torch.utils.data.Subset(tensors(size, offset), rows)
