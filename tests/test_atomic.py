"""Files that are whole or not there: what a failed write leaves, and who may read what a good one made."""

import os
from pathlib import Path

import pytest

from saccade import atomic


def test_a_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with atomic.replacing(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"

    def fail() -> None:
        with atomic.replacing(path) as file:
            file.write(b"half")
            raise KeyError

    for before in ([], [path]):
        with pytest.raises(KeyError):
            fail()
        assert list(tmp_path.iterdir()) == before
        path.write_bytes(b"old")
    assert path.read_bytes() == b"old"


def test_text_is_utf_8_and_follows_the_umask(tmp_path: Path) -> None:
    umask = os.umask(0o027)
    try:
        atomic.write_text(tmp_path / "a.txt", "grüße\n")
    finally:
        os.umask(umask)
    assert (tmp_path / "a.txt").read_bytes() == b"gr\xc3\xbc\xc3\x9fe\n"
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640
