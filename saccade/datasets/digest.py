"""What a dataset holds, in 32 hex digits: the same on every machine and in every folder.

Two digests, since the same videos are used with different scanpaths, and without any.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence

import numpy as np

from saccade.datasets.frames import FrameFolder
from saccade.datasets.splits import Entry
from saccade.gaze.scanpath import Fixation

__all__ = ["content_digest", "scanpath_digest"]

_HEX_DIGITS = 32
"""MLflow keeps no more than 36 of a dataset's digest."""


def content_digest(
    classes: Sequence[str],
    parts: Mapping[str, Sequence[Entry]],
    scanned: Mapping[str, FrameFolder],
    *,
    changes: str = "",
) -> str:
    """Digest that changes with the classes, the videos of each part, their order, labels and frames.

    Of the frames count their number and the bytes of 16 of them a video: reading 2.5 million files would take hours.
    `changes` says how a packed store's pixels differ from those of the JPEG files, if they do.
    """
    content = hashlib.sha256(json.dumps(list(classes)).encode() + changes.encode())
    for part, entries in parts.items():
        for entry in entries:
            frames = scanned[entry.name]
            content.update(json.dumps([part, entry.name, entry.label, frames.count]).encode())
            content.update(np.array(frames.sizes, dtype="<i8").tobytes())
    return content.hexdigest()[:_HEX_DIGITS]


def scanpath_digest(rows: Mapping[str, Sequence[Fixation]]) -> str:
    """Digest of the scanpath rows of videos, in the order given."""
    content = hashlib.sha256()
    for name, fixations in rows.items():
        content.update(json.dumps([name, [(row.cell, row.start, row.end) for row in fixations]]).encode())
    return content.hexdigest()[:_HEX_DIGITS]
