"""What several tests share."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real clips, which may not be in the repository; tests that need it are skipped without it."""
    folder = Path(os.environ.get("SACCADE_SHARED", REPOSITORY.parent / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip(f"real clips are not at {folder} (set SACCADE_SHARED to the folder that holds data/)")
    return folder
