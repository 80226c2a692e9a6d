"""A small backbone of three layers, and how the tests of fine-tuning train it."""

import lightning as L
import torch
from torch import nn
from torch.optim import SGD

from tests.shift import QUIET, ShiftedBlobs
from tlkit import TransferModule
from tlkit.tasks import Classification


class Deep(nn.Module):
    """Three layers; the first has batch normalisation and dropout."""

    num_features = 6

    def __init__(self, batch_norm=True, dropout=0.5):
        super().__init__()
        norm = nn.BatchNorm1d(16) if batch_norm else nn.Identity()
        first = [nn.Linear(8, 16), norm, nn.Tanh(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*first, nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 6))

    def forward(self, x):
        return self.layers(x)


def model(finetuning, backbone=None, optimizer=lambda p: SGD(p, lr=0.1), adaptation=None, **options):
    L.seed_everything(7)
    backbone = backbone or Deep()
    return TransferModule(backbone, Classification(), adaptation, optimizer=optimizer, finetuning=finetuning, **options)


def trainer(steps=12, callbacks=(), **options):
    return L.Trainer(callbacks=list(callbacks), **{**QUIET, "max_steps": steps, **options})


def data(**options):
    return ShiftedBlobs(**{"sources": ["still"], "targets": ["moved"], "batch_size": 16} | options)


def copied(module):
    """Return parameters and buffers by name, as they are now."""
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(module, before):
    """Return the names of what is no longer as it was, to the last bit."""
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
