"""The same seed gives the same run, bit for bit: twice, and with 0 and 4 workers of the loader, with augmentation."""

import csv

import lightning as L
import pytest
import torch
from torch import nn

from tests.data.settings import SETTINGS
from tlkit import TransferModule
from tlkit.callbacks import MetricsFile, ModelSelection
from tlkit.losses import CDAN
from tlkit.tasks import Classification, Regression

# One of each kind of data, the ones whose training draws something at random where there is such a one.
KINDS = (
    "ImageFolderDomains-image_size=16-augment=strong",
    "SeriesDomains-windows=",
    "TextDomains-max_length=8",
    "FingerprintDomains-weakest=-100.0",
)
CHOSEN = [next(each for each in SETTINGS if str(each).startswith(kind)) for kind in KINDS]


class Noisy(nn.Module):
    """Any input to 6 features, with batch normalisation and dropout: tokens are taken for numbers."""

    num_features = 6

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.LazyLinear(6), nn.BatchNorm1d(6), nn.Dropout(0.3))

    def forward(self, x):
        if isinstance(x, dict):
            ids, mask = x["input_ids"], x["attention_mask"]
            x = torch.stack([(ids * mask).sum(1).float(), mask.sum(1).float()], 1) / 50
        return self.layers(x.flatten(1).float())


def trained(setting, files, folder, workers):
    """Train 12 steps, and return the checkpoint and the rows of metrics.csv."""
    L.seed_everything(5)
    data = setting.make(files, num_workers=workers)
    task, losses = (Regression(), []) if data.quantities else (Classification(), [CDAN(hidden_size=8, dropout=0.2)])
    model = TransferModule(Noisy(), task, losses, optimizer=lambda p: torch.optim.SGD(p, 0.01, momentum=0.9))
    trainer = L.Trainer(
        accelerator="cpu", max_steps=12, val_check_interval=4, check_val_every_n_epoch=None, log_every_n_steps=2,
        logger=MetricsFile(folder), callbacks=[ModelSelection()], enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(model, datamodule=data)
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True), rows


@pytest.mark.filterwarnings("ignore:The number of training batches:UserWarning")
@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker:UserWarning")  # on fewer cores
@pytest.mark.parametrize("setting", CHOSEN, ids=lambda setting: setting.module.__name__)
def test_the_same_seed_gives_the_same_run(setting, tmp_path):
    (tmp_path / "files").mkdir()
    files = setting.files(tmp_path / "files")
    first, rows = trained(setting, files, tmp_path / "first", 0)
    for name, workers in (("again", 0), ("workers", 4)):
        other, other_rows = trained(setting, files, tmp_path / name, workers)
        assert other_rows == rows
        assert other["state_dict"].keys() == first["state_dict"].keys()
        for key, value in first["state_dict"].items():
            assert torch.equal(other["state_dict"][key], value), (name, key)


def test_another_seed_gives_another_run(tmp_path):
    """Else the test above would hold of runs that draw nothing."""
    (tmp_path / "files").mkdir()
    files = CHOSEN[0].files(tmp_path / "files")
    weights = []
    for seed in (5, 6):
        L.seed_everything(seed)
        data = CHOSEN[0].make(files)
        data.setup("fit")
        weights.append(next(iter(data.train_dataloader())).source.x)
    assert not torch.equal(*weights)
