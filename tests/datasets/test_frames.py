from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

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
    real = module.decode_frame
    monkeypatch.setattr(module, "decode_frame", lambda data, path, *to: decoded.append(path) or real(data, path, *to))
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
    with pytest.raises(DataError, match=r"1\.jpg: this frame is 32 x 26 px, but others of the video are 32 x 24"):
        read_frames(paths)


@pytest.mark.parametrize("quality", [60, 95])
@pytest.mark.parametrize("sampling", ["444", "422", "420", "grey", "progressive"])
def test_the_pixels_are_those_of_opencv_and_pillow(tmp_path: Path, sampling: str, quality: int) -> None:
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 256, (61, 83, 3), dtype=np.uint8), (0, 0), 1.5)
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    if sampling.isdecimal():
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{sampling}")]
    elif sampling == "progressive":
        options += [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]
    path = tmp_path / "0.jpg"
    cv2.imwrite(str(path), image[..., 0] if sampling == "grey" else image, options)
    (frame,) = read_frames([path])
    np.testing.assert_array_equal(frame, cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB))
    np.testing.assert_array_equal(frame, np.asarray(Image.open(path).convert("RGB")))


def test_damage_within_a_frame_is_told(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    data = bytearray(cv2.imencode(".jpg", noise)[1].tobytes())
    data[len(data) // 2 : len(data) // 2 + 4] = b"\xff\xd9\xff\xd9"  # an end where there should be more
    path = tmp_path / "0.jpg"
    path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        read_frames([path])
    assert str(caught.value).startswith(f"{path}: this frame cannot be decoded (")
    assert "\n" not in str(caught.value)
