"""Small two-domain data for tests, named by the kind of shift, backbones that fit it, and a trainer that is quiet."""

import torch
from torch import nn
from torch.utils.data import TensorDataset

from tlkit.data import DomainDataModule

# Arguments of a trainer that trains on the CPU, validates nothing, and neither writes nor shows anything.
QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "limit_val_batches": 0,
}


class ShiftedBlobs(DomainDataModule):
    """Three Gaussian classes in 8 dimensions; domain "moved" is "still" plus a constant (covariate shift)."""

    domains = ["still", "moved", "third"]
    classes = ["red", "green", "blue"]
    sizes = {"still": 155, "moved": 93, "third": 60}  # the test splits are odd

    def __init__(self, sources, targets=None, also_test=None, batch_size=16, dtype=torch.float32, **kwargs):
        super().__init__(sources, targets, also_test, batch_size, **kwargs)
        self.dtype = dtype

    def rows(self, domain):
        generator = torch.Generator().manual_seed(self.domains.index(domain))
        y = torch.arange(self.sizes[domain]) % 3
        centres = 3 * torch.eye(3, 8)
        x = centres[y] + torch.randn(len(y), 8, generator=generator) + 1.5 * self.domains.index(domain)
        return x.to(self.dtype), y

    def dataset(self, domain, split):
        x, y = self.rows(domain)
        rows = self.split(domain, y)[split]
        return TensorDataset(x[rows], y[rows])


class MLP(nn.Module):
    """A backbone without batch normalisation or dropout, so that nothing couples or perturbs rows."""

    num_features = 6

    def __init__(self, batch_norm=False):
        super().__init__()
        norm = nn.BatchNorm1d(16) if batch_norm else nn.Identity()
        self.layers = nn.Sequential(nn.Linear(8, 16), norm, nn.Tanh(), nn.Linear(16, 6))

    def forward(self, x):
        return self.layers(x)
