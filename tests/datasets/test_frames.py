from pathlib import Path

import cv2
import numpy as np
import pytest

from saccade.datasets import frames as module
from saccade.datasets.frames import list_frames, read_frames
from saccade.errors import DataError


def _write(path: Path, colour: tuple[int, int, int], height: int = 24, width: int = 32) -> Path:
    """A plain picture of one (red, green, blue) colour."""
    image = np.full((height, width, 3), colour[::-1], dtype=np.uint8)
    cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 100])
    return path


def test_only_jpegs_in_order_of_name(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.JPG", "c.jpeg", "._a.jpg", "notes.txt", "d.jpg.partial"):
        (tmp_path / name).touch()
    assert list_frames(tmp_path) == ("a.JPG", "b.jpg", "c.jpeg")
    with pytest.raises(DataError, match="cannot be listed"):
        list_frames(tmp_path / "absent")


def test_channels_are_red_green_blue_and_the_order_is_kept(tmp_path: Path) -> None:
    red, blue = _write(tmp_path / "r.jpg", (250, 10, 20)), _write(tmp_path / "b.jpg", (10, 30, 240))
    frames = read_frames([blue, red])
    assert frames.shape == (2, 24, 32, 3)
    assert frames.dtype == np.uint8
    assert np.abs(frames[0].astype(int) - (10, 30, 240)).max() <= 3
    assert np.abs(frames[1].astype(int) - (250, 10, 20)).max() <= 3


def test_a_repeated_path_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [_write(tmp_path / f"{n}.jpg", (n * 60, 0, 0)) for n in range(3)]
    decoded: list[Path] = []
    real = module._decode
    monkeypatch.setattr(module, "_decode", lambda path: decoded.append(path) or real(path))
    frames = read_frames([paths[i] for i in (1, 0, 1, 2, 1)])
    assert sorted(decoded) == sorted(paths)
    assert [int(np.rint(frame[..., 0].mean() / 60)) for frame in frames] == [1, 0, 1, 2, 1]


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.7, 0.99])
def test_a_frame_that_is_cut_off(tmp_path: Path, kept: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    whole = cv2.imencode(".jpg", noise)[1].tobytes()
    good, bad = _write(tmp_path / "0.jpg", (1, 2, 3), 64, 64), tmp_path / "1.jpg"
    bad.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(DataError) as caught:
        read_frames([good, bad])
    assert str(bad) in str(caught.value)


def test_a_few_bytes_after_the_end_do_no_harm(tmp_path: Path) -> None:
    path = _write(tmp_path / "0.jpg", (1, 200, 3))
    path.write_bytes(path.read_bytes() + b"\0" * 100)
    assert read_frames([path]).shape == (1, 24, 32, 3)


def test_files_that_are_no_pictures(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_bytes(b"hello")
    (tmp_path / "marker.jpg").write_bytes(b"hello\xff\xd9")
    for name, what in (
        ("text.jpg", "cut off or no JPEG"),
        ("marker.jpg", "cannot be decoded"),
        ("gone.jpg", "be read"),
    ):
        with pytest.raises(DataError, match=what):
            read_frames([tmp_path / name])


def test_frames_of_two_sizes(tmp_path: Path) -> None:
    paths = [_write(tmp_path / "0.jpg", (1, 2, 3)), _write(tmp_path / "1.jpg", (1, 2, 3), height=26)]
    with pytest.raises(DataError, match=r"1\.jpg: this frame is 32 x 26 px, but 0\.jpg of the same video is 32 x 24"):
        read_frames(paths)
