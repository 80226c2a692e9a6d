"""Small files of recordings, laid out as the published sets and as users have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tlkit.data.series.windowed import WindowedDomains

FIVE = ("SEATED", "STANDING_UP", "WALKING", "TURNING", "SITTING_DOWN")
SIX = ("bike", "sit", "stand", "walk", "stairsup", "stairsdown")


def windows_of(data: WindowedDomains, domain: str) -> Tensor:
    """All windows of a domain, ``(N, C, length)``, as they are read to evaluate."""
    windows = data._windows(domain).x
    return windows.read(torch.arange(len(windows)))


def waves(random: np.random.Generator, samples: int, channels: int, pace: float) -> np.ndarray:
    """Sines of a pace, with gravity on the third channel, and noise."""
    time = np.arange(samples)[:, None]
    values = np.sin(time * pace + np.arange(channels)) + 0.1 * random.standard_normal((samples, channels))
    values[:, 2 % channels] += 9.8
    return values


def series_table(root: Path, name: str = "all.csv") -> dict[str, Any]:
    """Write one table: two places, three persons, three recordings each of 200 samples at 50 Hz, two classes."""
    random = np.random.default_rng(0)
    lines = ["t,ax,ay,az,activity,take,who,place"]
    for place in ("hip", "wrist"):
        for who in ("p1", "p2", "p3"):
            for take in range(3):
                values = waves(random, 200, 3, 0.3 if place == "hip" else 0.5)
                for row, (x, y, z) in enumerate(values):
                    activity = "walk" if row < 120 else "rest"
                    lines.append(f"{row / 50:.2f},{x:.4f},{y:.4f},{z:.4f},{activity},{take},{who},{place}")
    (root / name).write_text("\n".join(lines) + "\n")
    return {
        "root": str(root),
        "columns": {
            "channels": ["ax", "ay", "az"],
            "label": "activity",
            "time": "t",
            "recording": "take",
            "person": "who",
            "domain": "place",
            "triads": [["ax", "ay", "az"]],
        },
    }


def sp_sw_har(root: Path, persons: int = 2, recordings: int = 9) -> dict[str, Any]:
    """Write recordings of 5 s, about 100 samples a second at irregular times in ms, the five activities in turn."""
    random = np.random.default_rng(0)
    for person in range(1, persons + 1):
        folder = root / "DATA" / f"s{person:02}"
        folder.mkdir(parents=True)
        for recording in range(1, recordings + 1):
            for device in ("sp", "sw"):
                steps = random.integers(8, 13, 500)
                times = 1657533977813 + np.cumsum(steps)
                values = waves(random, 500, 6, 0.1 if device == "sp" else 0.2)
                rows = [
                    ",".join([*(f"{value:.5f}" for value in row), str(time), FIVE[number // 100]])
                    for number, (row, time) in enumerate(zip(values, times, strict=True))
                ]
                head = "x_acc,y_acc,z_acc,x_gyro,y_gyro,z_gyro,timestamp,label"
                (folder / f"s{person:02}_{recording:02}_{device}.csv").write_text("\n".join([head, *rows]) + "\n")
    return {"root": str(root)}


def uci_har(root: Path, windows: int = 14, persons: tuple[int, int] = (1, 2)) -> dict[str, Any]:
    """Write windows of 128 samples that overlap by half: one person in train, one in test, six activities each."""
    random = np.random.default_rng(0)
    for person, part in zip(persons, ("train", "test"), strict=True):
        (root / part / "Inertial Signals").mkdir(parents=True)
        runs = [waves(random, (windows + 1) * 64, 9, 0.1 * activity * person) for activity in range(1, 7)]
        cut = [np.lib.stride_tricks.sliding_window_view(run, 128, axis=0)[::64] for run in runs]
        x = np.concatenate(cut)
        (root / part / f"y_{part}.txt").write_text("".join(f"{1 + row // windows}\n" for row in range(len(x))))
        (root / part / f"subject_{part}.txt").write_text(f"{person}\n" * len(x))
        names = [f"{name}_{axis}" for name in ("body_acc", "body_gyro", "total_acc") for axis in "xyz"]
        for channel, name in enumerate(names):
            lines = ["  ".join(f"{value: .7e}" for value in row) for row in x[:, channel]]
            (root / part / "Inertial Signals" / f"{name}_{part}.txt").write_text("\n".join(lines) + "\n")
    return {"root": str(root)}


def wisdm(root: Path, seconds: int = 50, persons: tuple[int, int] = (1, 2)) -> dict[str, Any]:
    """Write two persons and six activities at 20 Hz, with the kinds of broken entries that the published file has."""
    random = np.random.default_rng(0)
    entries = []
    for place, person in enumerate(persons, 1):
        for number, activity in enumerate(("Walking", "Jogging", "Sitting", "Standing", "Upstairs", "Downstairs"), 1):
            start = 49105962326000 + number * 10**12
            for row, (x, y, z) in enumerate(waves(random, 20 * seconds, 3, 0.1 * number * place)):
                entries.append(f"{person},{activity},{start + row * 50_000_000},{x:.7f},{y:.7f},{z:.6f};\n")
    entries[10] = entries[10].replace(";\n", ";")  # two entries on one line
    entries[20] = entries[20].replace(";\n", ",;\n")  # a comma too many: still a whole sample
    entries.insert(30, "1,Walking,0,0,0,0;\n")
    entries.insert(40, "1,Walking,49107962326000,0.15,9.1;\n")
    entries.insert(50, "1,Walking,49107962326000,0.15,,9.1;\n\n")
    (root / "WISDM_ar_v1.1").mkdir()
    (root / "WISDM_ar_v1.1" / "WISDM_ar_v1.1_raw.txt").write_text("".join(entries))
    return {"root": str(root)}


def hhar(root: Path, seconds: int = 12, persons: str = "ab") -> dict[str, Any]:
    """Write two persons with two phones and a watch at once, in an order that is not that of time."""
    random = np.random.default_rng(0)
    head = "Index,Arrival_Time,Creation_Time,x,y,z,User,Model,Device,gt"
    for name, devices in (("Phones", ("nexus4_1", "s3_1", "s3_2")), ("Watch", ("gear_1",))):
        rows = []
        for user in persons:
            for device in devices:
                for number, activity in enumerate((*SIX, "null")):
                    start = 1424696633908 + 10**6 * number
                    for row, (x, y, z) in enumerate(waves(random, 60 * seconds, 3, 0.1 * number)):
                        when = start + row * 1000 // 60
                        model = device.split("_")[0]
                        rows.append(
                            f"{row},{when},{when}000000,{x:.5f},{y:.5f},{z:.5f},{user},{model},{device},{activity}"
                        )
        mixed = [rows[place] for place in random.permutation(len(rows))]
        (root / f"{name}_accelerometer.csv").write_text("\n".join([head, *mixed]) + "\n")
    return {"root": str(root)}
