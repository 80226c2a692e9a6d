"""Data modules: which domains, in which role."""

from tlkit.data.base import DomainDataModule
from tlkit.data.digits import Digits
from tlkit.data.images import ImageFolderDomains
from tlkit.data.rows import TensorRows
from tlkit.data.splits import HoldOut

__all__ = ["Digits", "DomainDataModule", "HoldOut", "ImageFolderDomains", "TensorRows"]
