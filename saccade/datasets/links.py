"""Links within a dataset: what was downloaded may not have our eyes read another place of this machine.

The folder of a dataset and those right in it (`jpegs_256`, `split`, ...) may be links to wherever their owner keeps
them. Links within these may only lead to what lies there too, or below the data root.
"""

import os
from pathlib import Path

from saccade.errors import DataError

__all__ = ["refuse_links_out"]


def refuse_links_out(folder: Path, dataset: Path) -> None:
    """Check the entries of a folder, which may be missing; those that are no links cost next to nothing.

    Args:
        folder: Within the dataset, at any depth.
        dataset: The dataset's folder, which lies in the data root.

    Raises:
        DataError: Names a link that leads out.
    """
    try:
        with os.scandir(folder) as entries:
            links = [Path(entry.path) for entry in entries if entry.is_symlink()]
    except OSError:
        return  # for whoever reads it to tell
    if not links:
        return
    parts = folder.relative_to(dataset).parts
    allowed = {place.resolve() for place in (dataset.parent, dataset, dataset.joinpath(*parts[:1]))}
    for link in links:
        real = link.resolve()
        if not any(real.is_relative_to(place) for place in allowed):
            raise DataError(
                f"{link}: is a link to {real}, out of the data root; copy that there, or link the whole dataset"
            )
