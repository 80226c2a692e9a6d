"""Data modules: which domains, in which role."""

from tlkit.data.amazon import AmazonReviews
from tlkit.data.base import DomainDataModule
from tlkit.data.digits import Digits
from tlkit.data.fingerprints import FingerprintDomains, FingerprintTable
from tlkit.data.hhar import HHAR
from tlkit.data.image_table import ImageTableDomains
from tlkit.data.images import ImageFolderDomains
from tlkit.data.medical import OCT, ChestXRay, MedMNIST
from tlkit.data.rows import TensorRows
from tlkit.data.seglearn_watch import SeglearnWatch
from tlkit.data.series import SeriesDomains
from tlkit.data.series_files import SeriesColumns
from tlkit.data.shard_scan import index_shards
from tlkit.data.shard_writer import ShardSample, write_domain, write_shards
from tlkit.data.shards import ArrayShardDomains, ImageShardDomains
from tlkit.data.signals import Signals
from tlkit.data.sp_sw_har import SPSWHAR
from tlkit.data.splits import HoldOut
from tlkit.data.text import TextDomains
from tlkit.data.uci_har import UCIHAR
from tlkit.data.ujiindoorloc import UJIIndoorLoc
from tlkit.data.ujilibrary import UJILibrary
from tlkit.data.vision import PACS, DomainNet, Office31, OfficeHome, VisDA2017
from tlkit.data.windows import Windowing
from tlkit.data.wisdm import WISDM

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
