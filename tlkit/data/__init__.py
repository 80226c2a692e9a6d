"""Data modules: which domains, in which role."""

from tlkit.data.base import DomainDataModule
from tlkit.data.digits import Digits
from tlkit.data.images import ImageFolderDomains

__all__ = ["Digits", "DomainDataModule", "ImageFolderDomains"]
