"""Packed stores of a few videos, and the same videos as folders."""

from pathlib import Path

import numpy as np

from saccade.datasets.frames import list_frames, read_frames
from saccade.datasets.layout import Dataset, load_dataset
from saccade.datasets.packed import Settings
from saccade.datasets.packed_plan import plan_pack
from saccade.datasets.packed_write import PackReport, pack

JPEG, DECODED, SMALL = Settings("jpeg"), Settings("decoded"), Settings("decoded", 24)
SMALL_JPEG = Settings("jpeg", 24, 90)


def packed(dataset: Path, settings: Settings, workers: int = 1) -> PackReport:
    return pack(plan_pack(dataset, settings), workers=workers)


def tree(dataset: Path, video: str) -> np.ndarray:
    folder = dataset / "jpegs_256" / video
    return read_frames([folder / name for name in list_frames(folder)])


def loaded(dataset: Path, store: str = "frames") -> Dataset:
    return load_dataset(dataset.parent, dataset.name, split=1, grid_num=7, scanpaths=True, min_frames=4, store=store)
