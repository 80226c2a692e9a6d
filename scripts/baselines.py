"""What users would try first, on the data and splits of a recipe: scikit-learn on ready-made features.

    python scripts/baselines.py linear_probe vision/pacs_photo_to_art_painting_source_only --seed=0

Prints one line of JSON with the metrics of the targets. A baseline trains on the rows that the recipe trains on, its
training and validation rows together (where labels_per_class or label_fraction leaves few labels, on those alone), and
never sees a label of the target.

    linear_probe    logistic regression on the frozen backbone's features
    itq             iterative quantization of the frozen backbone's features into codes (Gong and Lazebnik, CVPR 2011)
    tfidf           logistic regression on TF-IDF of words and pairs of words
    knn             k-NN weighted by the Sorensen (Bray-Curtis) distance of the recipe's inputs (Torres-Sospedra et al.,
                    Expert Systems with Applications 2015); k = 15, the best of 9 and 15 on the target's positions; a
                    vote where the labels are classes
    knn_positive    the same on RSSI above the weakest
    knn_powed       the same on their powed representation, with the exponent e of that paper
    extra_trees     500 extremely randomised trees on statistics of each channel of a window
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader

Rows = tuple[NDArray[Any], NDArray[Any]]


class Recipe:
    """The parts of a recipe that a baseline needs."""

    def __init__(self, name: str, seed: int, *overrides: str) -> None:
        from tlkit.cli.request import fit_request
        from tlkit.cli.shell import TransferCLI, quiet

        quiet()
        self.seed = seed
        cli = TransferCLI(fit_request([f"--config={name}", f"--seed_everything={seed}", *overrides]).recipe)
        self.data, self.backbone = cli.datamodule, cli.model.network.backbone
        self.data.setup("fit")
        self.domains = self.data.eval_domains

    def source(self, inputs: Callable[[Any], Tensor]) -> Rows:
        if not self.data.budgets:
            return _read(self.data.reference_loader(), inputs)
        # Where labels are few, the validation rows would be most of them.
        rows: ConcatDataset[Any] = ConcatDataset([self.data.dataset(domain, "train") for domain in self.data.sources])
        x, y = zip(*DataLoader(rows, batch_size=64), strict=True)
        return np.concatenate([inputs(each).numpy() for each in x]), torch.cat(y).numpy()

    def tests(self, inputs: Callable[[Any], Tensor]) -> dict[str, Rows]:
        loaders = zip(self.domains, self.data.test_dataloader(), strict=True)
        return {domain: _read(loader, inputs) for domain, loader in loaders if domain in self.data.targets}

    def features(self, x: Any) -> Tensor:
        """Return the frozen backbone's features of a batch."""
        with torch.no_grad():
            features: Tensor = self.backbone.eval()(x)
        return features


def _read(loader: Any, inputs: Callable[[Any], Tensor]) -> Rows:
    parts = [(inputs(batch.x).numpy(), batch.y.numpy()) for batch in loader]
    x, y = (np.concatenate(each) for each in zip(*parts, strict=True))
    return x, y


def _scores(domain: str, y: NDArray[Any], predicted: NDArray[Any]) -> dict[str, float]:
    from sklearn.metrics import f1_score, recall_score

    there = np.unique(y)
    return {
        f"test/{domain}/accuracy": float((y == predicted).mean()),
        f"test/{domain}/macro_f1": float(f1_score(y, predicted, average="macro")),
        f"test/{domain}/mean_class_accuracy": float(recall_score(y, predicted, labels=there, average="macro")),
    }


def linear_probe(recipe: Recipe) -> dict[str, float]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000)).fit(
        *recipe.source(recipe.features)
    )
    found: dict[str, float] = {}
    domains = recipe.tests(recipe.features) or {
        domain: _read(loader, recipe.features)
        for domain, loader in zip(recipe.domains, recipe.data.test_dataloader(), strict=True)
    }
    for domain, (x, y) in domains.items():
        found |= _scores(domain, y, model.predict(x))
        if len(model.classes_) == 2:
            found[f"test/{domain}/auroc"] = float(roc_auc_score(y, model.predict_proba(x)[:, 1]))
    return found


def itq(recipe: Recipe, bits: int = 64, iterations: int = 50) -> dict[str, float]:
    """Rotate the first principal components of the data base so that their signs lose least."""
    from sklearn.decomposition import PCA

    from tlkit.functional import pack_codes
    from tlkit.metrics import HashRetrieval

    x, y = recipe.source(recipe.features)
    reduce = PCA(bits, random_state=recipe.seed).fit(x)
    v = reduce.transform(x)
    random = np.random.default_rng(recipe.seed)
    rotation = np.linalg.qr(random.standard_normal((bits, bits)))[0]
    for _ in range(iterations):
        left, _, right = np.linalg.svd(np.sign(v @ rotation).T @ v)
        rotation = (left @ right).T
    database = pack_codes(torch.from_numpy(v @ rotation)), torch.from_numpy(y)
    found = {}
    for domain, (queries, labels) in recipe.tests(recipe.features).items():
        metric = HashRetrieval(bits, lambda: database)
        metric.update(torch.from_numpy(reduce.transform(queries) @ rotation), torch.from_numpy(labels))
        found[f"test/{domain}/map"] = float(metric.compute()["map"])
    return found


def tfidf(recipe: Recipe) -> dict[str, float]:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10, max_iter=2000)
    )
    data: Any = recipe.data

    def rows(domain: str, split: str) -> Any:
        return data.texts(domain).take(data.splits[domain][split])

    sources = [rows(domain, "reference") for domain in data.sources]
    model.fit([text for each in sources for text in each.texts], [label for each in sources for label in each.labels])
    found: dict[str, float] = {}
    for domain in data.targets:
        tested = rows(domain, "test")
        found |= _scores(domain, np.array(tested.labels), model.predict(tested.texts))
    return found


def knn(recipe: Recipe) -> dict[str, float]:
    from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

    kind = KNeighborsClassifier if recipe.data.classes else KNeighborsRegressor
    model = kind(15, weights="distance", metric="braycurtis", algorithm="brute", n_jobs=1)
    model.fit(*recipe.source(_flat))
    found: dict[str, float] = {}
    for domain, (queries, labels) in recipe.tests(_flat).items():
        if recipe.data.classes:
            found |= _scores(domain, labels, model.predict(queries))
            continue
        error = np.linalg.norm(model.predict(queries) - labels, axis=1)
        found[f"test/{domain}/error_mean"] = float(error.mean())
        for name, share in (("median", 50), ("p75", 75), ("p95", 95)):
            found[f"test/{domain}/error_{name}"] = float(np.percentile(error, share))
    return found


def _flat(x: Tensor) -> Tensor:
    return x.flatten(1)


def extra_trees(recipe: Recipe) -> dict[str, float]:
    from sklearn.ensemble import ExtraTreesClassifier

    x, y = recipe.source(_statistics)
    forest = ExtraTreesClassifier(500, random_state=recipe.seed, class_weight="balanced", n_jobs=-1).fit(x, y)
    found: dict[str, float] = {}
    for domain, (queries, labels) in recipe.tests(_statistics).items():
        found |= _scores(domain, labels, forest.predict(queries))
    return found


def _statistics(x: Tensor) -> Tensor:
    """Return mean, deviation, extremes, quartiles, mean absolute step and the strongest frequencies of each channel."""
    spectrum = torch.fft.rfft(x - x.mean(2, keepdim=True), dim=2).abs()
    quartiles = torch.quantile(x, torch.tensor([0.25, 0.5, 0.75]), dim=2).movedim(0, -1)
    single = [x.mean(2), x.std(2), x.amin(2), x.amax(2), x.diff(dim=2).abs().mean(2), spectrum.argmax(2).float()]
    return torch.cat([torch.stack(single, 2), quartiles, spectrum[:, :, 1:17].log1p()], 2).flatten(1)


BASELINES: dict[str, Callable[[Recipe], dict[str, float]]] = {
    **{function.__name__: function for function in (linear_probe, itq, tfidf, knn, extra_trees)},
    **dict.fromkeys(("knn_positive", "knn_powed"), knn),
}
# What a baseline changes in the recipe's data.
CHANGES = {
    "linear_probe": ["--data.augment=none"],
    "knn_positive": ["--data.representation=positive", f"--data.exponent={math.e}"],
    "knn_powed": ["--data.representation=powed", f"--data.exponent={math.e}"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("baseline", choices=BASELINES)
    parser.add_argument("recipe", help="the recipe whose data, splits and backbone are used")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    start = time.monotonic()
    metrics = BASELINES[options.baseline](Recipe(options.recipe, options.seed, *CHANGES.get(options.baseline, [])))
    print(json.dumps({"metrics": metrics, "seconds": time.monotonic() - start}))


if __name__ == "__main__":
    main()
