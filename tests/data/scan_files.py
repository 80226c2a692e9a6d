"""Small files of the published layouts of WiFi fingerprints, made by code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

NOT_HEARD = 100


def signals(position: np.ndarray, access_points: int, seed: int = 0, shift: float = 0.0) -> np.ndarray:
    """Strengths that fall with the distance from access points at random places; whole dBm, 100 where not heard."""
    random = np.random.default_rng(seed)
    places = np.random.default_rng(1).uniform(0, 30, (access_points, 2))
    distance = np.linalg.norm(position[:, None] - places[None], axis=2)
    rssi = -40 - 25 * np.log10(1 + distance) - shift + random.normal(0, 2, distance.shape)
    return np.where(rssi < -75, NOT_HEARD, np.minimum(rssi, -20)).round().astype(int)


def grid(rows: int) -> np.ndarray:
    """Places on a grid of 3 m, each as often as any other."""
    return np.stack([3.0 * (np.arange(rows) % 5), 3.0 * (np.arange(rows) // 5 % 4)], axis=1)


def office_frame(rows: int = 60) -> pd.DataFrame:
    """Two phones on two floors of two buildings."""
    frames = []
    for number, phone in enumerate(("old", "new")):
        position = grid(rows)
        frame = pd.DataFrame(
            signals(position, 6, seed=number, shift=5.0 * number), columns=[f"AP{i}" for i in range(6)]
        )
        frame["x_m"], frame["y_m"] = position.T
        frame["floor"], frame["house"] = np.arange(rows) % 2, np.where(np.arange(rows) % 3, "north", "south")
        frame["series"] = np.arange(rows) // 2
        frame["phone"] = phone
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def office(root: Path, **columns: Any) -> dict[str, Any]:
    """Write ``office.csv`` and return the arguments that describe it."""
    from tlkit.data import FingerprintTable

    office_frame().to_csv(root / "office.csv", index=False)
    table = {"rssi": "AP*", "x": "x_m", "y": "y_m", "domain": "phone", "floor": "floor", "building": "house"}
    return {"table": FingerprintTable(str(root / "office.csv"), **{**table, "group": "series", **columns})}


PHONES = np.array([14, 13, 14, 13, 14, 13, 6, 7])  # of one visit after the other


def ujiindoorloc_frame(period: str, rows: int) -> pd.DataFrame:
    """One file of UJIIndoorLoc: visits of five scans in training, walks of five scans in validation."""
    position = grid(rows // 5).repeat(5, axis=0)[:rows]
    if period == "validation":
        position = position + np.random.default_rng(2).uniform(-1, 1, position.shape)
    number = np.arange(rows)
    rssi = np.full((rows, 520), NOT_HEARD)
    rssi[:, :8] = signals(position, 8, seed=len(period))
    training = period == "training"
    others = {
        "LONGITUDE": -7600.0 + position[:, 0],
        "LATITUDE": 4864800.0 + position[:, 1],
        "FLOOR": number // 5 % 4,
        "BUILDINGID": number // 5 % 3,
        "SPACEID": number // 5 % 7,
        "RELATIVEPOSITION": np.ones(rows, int),
        "USERID": number // 5 % 2 + 1 if training else np.zeros(rows, int),
        "PHONEID": PHONES[number // 5 % len(PHONES)] if training else np.where(number // 10 % 2, 13, 20),
        "TIMESTAMP": 1_370_000_000 + 400 * (number // 5) + 10 * (number % 5) + (0 if training else 10**7),
    }
    names = [f"WAP{i:03d}" for i in range(1, 521)]
    return pd.concat([pd.DataFrame(rssi, columns=names), pd.DataFrame(others)], axis=1)


def ujiindoorloc(root: Path) -> dict[str, Any]:
    """Write the two files of UJIIndoorLoc."""
    (root / "UJIndoorLoc").mkdir()
    for period, rows in (("training", 200), ("validation", 60)):
        ujiindoorloc_frame(period, rows).to_csv(root / "UJIndoorLoc" / f"{period}Data.csv", index=False)
    return {"root": str(root)}


def write_set(folder: Path, month: int, kind: str, number: int, off_grid: float = 0.0, floors: tuple = (3, 5)) -> None:
    """Write the four files of one survey (``trn``) or test campaign (``tst``): 6 places, 2 directions, 6 scans."""
    place = np.arange(12).repeat(6)
    position = np.stack([4.0 + 3.0 * (place // 2 % 3) + off_grid, 17.0 + 2.0 * (place // 6)], axis=1)
    floor = np.where(place % 4 < 2, *floors)
    identifier = [
        f"{month}{number:02d}{1 if kind == 'trn' else 2}{p + 1:03d}{s + 1:02d}" for p in range(12) for s in range(6)
    ]
    contents = {
        "rss": signals(position, 9, seed=100 * month + number, shift=month / 5),
        "crd": np.column_stack([position, floor]),
        "tms": np.array([f"20160602{i:09d}" for i in range(72)])[:, None],
        "ids": np.array(identifier)[:, None],
    }
    for part, values in contents.items():
        pd.DataFrame(values).to_csv(folder / f"{kind}{number:02d}{part}.csv", index=False, header=False)


def ujilibrary(root: Path, second_phone: bool = False, months: tuple[int, ...] = (1, 2)) -> dict[str, Any]:
    """Write months of the library set, three surveys in month 1 and one in others, or month 25 with both phones."""
    for month in (25,) if second_phone else months:
        folder = root / "db" / f"{month:02d}"
        folder.mkdir(parents=True)
        surveys = {1: (1, 2, 3), 25: (1, 2)}.get(month, (1,))
        for number in surveys:
            write_set(folder, month, "trn", number)
        for number in range(1, 11 if second_phone else 6):
            write_set(folder, month, "tst", number, off_grid=1.5 * ((number - 1) % 5 in (1, 2, 3)))
    return {"root": str(root)}
