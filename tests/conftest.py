"""What several tests share."""

import os
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Networks as small as those of tests only lose by threads, which on a busy machine mostly wait for each other."""
    # Only where they are imported already: tests of specs and journals do without.
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    if "faiss" in sys.modules:
        sys.modules["faiss"].omp_set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real clips, which may not be in the repository; tests that need it are skipped without it."""
    folder = Path(os.environ.get("SACCADE_SHARED", REPOSITORY.parent / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip(f"real clips are not at {folder} (set SACCADE_SHARED to the folder that holds data/)")
    return folder
