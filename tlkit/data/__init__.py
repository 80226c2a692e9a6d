"""Data modules: which domains, in which role."""

from tlkit.data.base import DomainDataModule
from tlkit.data.fingerprints.domains import FingerprintDomains, FingerprintTable
from tlkit.data.images.folders import ImageFolderDomains
from tlkit.data.images.table import ImageTableDomains
from tlkit.data.rows import TensorRows
from tlkit.data.series.domains import SeriesDomains
from tlkit.data.series.files import SeriesColumns
from tlkit.data.series.signals import Signals
from tlkit.data.series.windows import Windowing
from tlkit.data.sets.amazon import AmazonReviews
from tlkit.data.sets.digits import Digits
from tlkit.data.sets.hhar import HHAR
from tlkit.data.sets.medical import OCT, ChestXRay, MedMNIST
from tlkit.data.sets.seglearn_watch import SeglearnWatch
from tlkit.data.sets.sp_sw_har import SPSWHAR
from tlkit.data.sets.uci_har import UCIHAR
from tlkit.data.sets.ujiindoorloc import UJIIndoorLoc
from tlkit.data.sets.ujilibrary import UJILibrary
from tlkit.data.sets.vision import PACS, DomainNet, Office31, OfficeHome, VisDA2017
from tlkit.data.sets.wisdm import WISDM
from tlkit.data.shards.domains import ArrayShardDomains, ImageShardDomains
from tlkit.data.shards.scan import index_shards
from tlkit.data.shards.writer import ShardSample, write_domain, write_shards
from tlkit.data.splits import HoldOut
from tlkit.data.text.domains import TextDomains

__all__ = [
    "HHAR",
    "OCT",
    "PACS",
    "SPSWHAR",
    "UCIHAR",
    "WISDM",
    "AmazonReviews",
    "ArrayShardDomains",
    "ChestXRay",
    "Digits",
    "DomainDataModule",
    "DomainNet",
    "FingerprintDomains",
    "FingerprintTable",
    "HoldOut",
    "ImageFolderDomains",
    "ImageShardDomains",
    "ImageTableDomains",
    "MedMNIST",
    "Office31",
    "OfficeHome",
    "SeglearnWatch",
    "SeriesColumns",
    "SeriesDomains",
    "ShardSample",
    "Signals",
    "TensorRows",
    "TextDomains",
    "UJIIndoorLoc",
    "UJILibrary",
    "VisDA2017",
    "Windowing",
    "index_shards",
    "write_domain",
    "write_shards",
]
