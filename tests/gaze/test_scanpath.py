from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saccade.errors import DataError
from saccade.gaze import scanpath
from saccade.gaze.scanpath import Fixation, gaze_cells, read_scanpath, rows_from_gaze, write_scanpath


def _file(folder: Path, text: str) -> Path:
    path = folder / "v.txt"
    path.write_text(text)
    return path


def test_rows_come_in_the_files_order(tmp_path: Path) -> None:
    path = _file(tmp_path, "24 0 7\n24.0 12.0 20\n0 5e0 9\n48 30 30\n\n \n")
    assert read_scanpath(path, 7) == (
        Fixation(24, 0, 7),
        Fixation(24, 12, 20),
        Fixation(0, 5, 9),
        Fixation(48, 30, 30),
    )


def test_an_empty_file_is_no_fixation(tmp_path: Path) -> None:
    assert read_scanpath(_file(tmp_path, ""), 7) == ()
    assert read_scanpath(_file(tmp_path, "\n\n"), 7) == ()


def test_windows_line_ends_and_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "v.txt"
    path.write_bytes(b"\xef\xbb\xbf24 0 7\r\n3\t1\t2\r\n")
    assert read_scanpath(path, 7) == (Fixation(24, 0, 7), Fixation(3, 1, 2))


@pytest.mark.parametrize(
    ("second_row", "what"),
    [
        ("49 0 7", "cells are 0 to 48"),
        ("-1 0 7", "cells are 0 to 48"),
        ("3 0", "2 values"),
        ("3 0 7 9", "4 values"),
        ("3.5 0 7", "'3.5'"),
        ("3 nan 7", "'nan'"),
        ("3 0 inf", "'inf'"),
        ("3 0 1_0", "'1_0'"),
        ("x 0 7", "'x'"),
        ("3 -1 7", "0 <= start <= end"),
        ("3 8 7", "0 <= start <= end"),
        ("3 20 20", "20 frames"),
        ("3 0 21", "20 frames"),
        ("", "0 values"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, second_row: str, what: str) -> None:
    path = _file(tmp_path, f"24 0 7\n{second_row}\n24 8 9\n")
    with pytest.raises(DataError) as caught:
        read_scanpath(path, 7, num_frames=20)
    assert str(caught.value).startswith(f"{path}:2: ")
    assert what in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_end_at_the_number_of_frames_is_allowed(tmp_path: Path) -> None:
    assert read_scanpath(_file(tmp_path, "3 19 20\n"), 7, num_frames=20) == (Fixation(3, 19, 20),)


def test_the_number_of_frames_is_checked_only_when_given(tmp_path: Path) -> None:
    assert read_scanpath(_file(tmp_path, "3 900 1000\n"), 7) == (Fixation(3, 900, 1000),)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such scanpath file"):
        read_scanpath(tmp_path / "absent.txt", 7)
    with pytest.raises(DataError, match="cannot be read"):
        read_scanpath(tmp_path, 7)
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read"):
        read_scanpath(tmp_path / "binary.txt", 7)


def test_a_file_that_is_no_scanpath_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanpath, "_MAX_BYTES", 2**20)
    path = _file(tmp_path, "3 0 5\n" * (2**20 // 6 + 1))
    with pytest.raises(DataError, match=rf"^{path}: is larger than 1 MiB, which no scanpath is$"):
        read_scanpath(path, 7)


def test_written_rows_are_read_back(tmp_path: Path) -> None:
    rows = (Fixation(48, 3, 9), Fixation(0, 9, 12))
    write_scanpath(tmp_path / "v.txt", rows)
    assert (tmp_path / "v.txt").read_bytes() == b"48 3 9\n0 9 12\n"
    assert read_scanpath(tmp_path / "v.txt", 7) == rows
    write_scanpath(tmp_path / "v.txt", ())
    assert read_scanpath(tmp_path / "v.txt", 7) == ()
    assert [path.name for path in tmp_path.iterdir()] == ["v.txt"]


def test_rows_from_gaze_by_hand() -> None:
    cells = [5, 5, 5, 8, 5, 5, 5, 5, 9, 9, 2, 2, 2]
    assert rows_from_gaze(cells) == (Fixation(5, 0, 3), Fixation(5, 4, 8), Fixation(2, 10, 13))
    assert rows_from_gaze(cells, min_frames=2)[2] == Fixation(9, 8, 10)
    assert len(rows_from_gaze(cells, min_frames=1)) == 5
    assert rows_from_gaze([]) == ()


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(1, 5))
def test_rows_from_gaze_against_a_frame_by_frame_count(cells: list[int], min_frames: int) -> None:
    # A frame is fixated when at least min_frames of its kind stand around it without a break.
    def run_around(frame: int) -> tuple[int, int]:
        first = last = frame
        while first > 0 and cells[first - 1] == cells[frame]:
            first -= 1
        while last + 1 < len(cells) and cells[last + 1] == cells[frame]:
            last += 1
        return first, last

    wanted = []
    for frame in range(len(cells)):
        first, last = run_around(frame)
        if frame == first and last - first + 1 >= min_frames:
            wanted.append(Fixation(cells[frame], first, last + 1))
    assert list(rows_from_gaze(cells, min_frames)) == wanted


def test_cells_of_a_gaze_by_hand() -> None:
    places = np.array([[0, 0], [0.5, 0.5], [0.999, 0.01], [3 / 7, 0.2857], [1.0, 1.0]])
    assert gaze_cells(places, 7) == [0, 24, 42, 22, 48]
    assert gaze_cells(places, 2) == [0, 3, 2, 0, 3]
