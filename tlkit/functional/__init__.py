"""The mathematics of adaptation as pure functions of tensors: no state, no Lightning."""

from tlkit.functional.confusion import class_confusion
from tlkit.functional.coral import coral
from tlkit.functional.diagnosis import auroc, resampled_counts, sensitivity_threshold, youden_threshold
from tlkit.functional.feature_maps import feature_map_distance
from tlkit.functional.hamming import (
    average_precision,
    count_by_distance,
    hamming_distance,
    hamming_search,
    pack_codes,
    precision_within,
)
from tlkit.functional.mmd import mmd
from tlkit.functional.nuclear import batch_nuclear_norm
from tlkit.functional.reversal import gradient_reversal
from tlkit.functional.similarity import hash_entropy, pairwise_likelihood
from tlkit.functional.spectrum import batch_spectral_shrinkage
from tlkit.functional.starting_point import l2_sp

__all__ = [
    "auroc",
    "average_precision",
    "batch_nuclear_norm",
    "batch_spectral_shrinkage",
    "class_confusion",
    "coral",
    "count_by_distance",
    "feature_map_distance",
    "gradient_reversal",
    "hamming_distance",
    "hamming_search",
    "hash_entropy",
    "l2_sp",
    "mmd",
    "pack_codes",
    "pairwise_likelihood",
    "precision_within",
    "resampled_counts",
    "sensitivity_threshold",
    "youden_threshold",
]
