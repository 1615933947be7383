"""The gaze model against the formulas of the method, written out slowly."""

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import ndimage
from scipy.integrate import odeint, solve_ivp

from saccade.errors import DataError
from saccade.gaze.detail import detail_maps, gabor_kernels, scaled_size, shrink
from saccade.gaze.geymol import STEP_FRAMES, STEPS, Field, Gaze, attraction, coast, follow, inhibited, start
from saccade.gaze.geymol_batch import GazeBatch, detail_maps_batch
from saccade.rng import generator

Array = npt.NDArray[np.float64]
Image = npt.NDArray[np.uint8]


def _texture(height: int, width: int, seed: int) -> Image:
    noise = np.random.default_rng(seed).random((height, width, 3))
    smooth = ndimage.gaussian_filter(noise, (3, 3, 0))
    return ((smooth - smooth.min()) / np.ptp(smooth) * 255).astype(np.uint8)


def _drifting(height: int, width: int, frames: int, seed: int) -> list[Image]:
    texture = _texture(height + frames, width + 2 * frames, seed)
    return [texture[t : t + height, 2 * t : 2 * t + width].copy() for t in range(frames)]


@pytest.fixture(scope="module")
def real_frames(shared_data: Path) -> list[Image]:
    clip = shared_data / "ucf101_mini" / "videos" / "PushUps" / "v_PushUps_g14_c01.avi"
    if not clip.is_file():
        pytest.skip(f"{clip} is not there")
    capture = cv2.VideoCapture(str(clip))
    return [shrink(np.asarray(capture.read()[1][..., ::-1], np.uint8).copy()) for _ in range(12)]


# The slow version -----------------------------------------------------------------------------------------------------


def _slow_detail(frame: Image) -> Array:
    colours = np.moveaxis(frame / 255, 2, 0)
    grey = 0.299 * colours[0] + 0.587 * colours[1] + 0.114 * colours[2]
    y, x = np.mgrid[-10:11, -10:11]
    features = [*colours, grey]
    for theta in np.deg2rad([0, 45, 90, 135]):
        along, across = x * np.cos(theta) + y * np.sin(theta), -x * np.sin(theta) + y * np.cos(theta)
        kernel = np.exp(-(along**2 + 0.5**2 * across**2) / (2 * 8**2)) * np.cos(2 * np.pi * along / 10)
        features.append(np.clip(np.rint(ndimage.correlate(grey, kernel, mode="mirror")), 0, 255))
    slope, smooth = np.array([-1, -2, 0, 2, 1]), np.array([1, 4, 6, 4, 1])
    channels = []
    for feature in features:
        across = ndimage.correlate(feature, np.outer(smooth, slope), mode="mirror")
        down = ndimage.correlate(feature, np.outer(slope, smooth), mode="mirror")
        channels.append(np.sqrt(across**2 + down**2))
    return np.stack(channels)


def _slow_acceleration(channels: Array, inhibition: Array, row: int, column: int) -> Array:
    n = max(channels.shape[1:])
    n += 1 - n % 2
    half = n // 2
    pull = np.zeros(2)
    for channel in channels:
        padded = np.pad(channel * (1 - inhibition), half)
        crop = padded[row : row + n, column : column + n]
        assert crop.shape == (n, n)
        if crop.max() != 0:
            crop = crop / crop.max()
        for i in range(n):
            for_row = i - half
            d_column = np.arange(n) - half
            distance = for_row**2 + d_column**2
            weight = (n // 10 + 1) / (distance + n // 10)
            pull[0] += 0.2 / 8 * (weight * for_row * crop[i]).sum()
            pull[1] += 0.2 / 8 * (weight * d_column * crop[i]).sum()
    return pull


def _check_accelerations(frame: Image, seed: int, places: int = 4) -> None:
    rng = np.random.default_rng(seed)
    height, width = frame.shape[:2]
    inhibition = ndimage.gaussian_filter(rng.random((height, width)), 20)
    inhibition = (inhibition - inhibition.min()) / np.ptp(inhibition)
    channels = _slow_detail(frame)
    field = Field(detail_maps(frame) * (1 - inhibition.astype(np.float32)))
    corners = [(0, 0), (height - 1, width - 1)]
    for row, column in [*corners, *zip(rng.integers(0, height, places), rng.integers(0, width, places), strict=True)]:
        wanted = _slow_acceleration(channels, inhibition, row, column)
        got = field.acceleration(row + rng.random(), column + rng.random())
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-3 * np.linalg.norm(wanted))


# Detail and field -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [((256, 341), (168, 224)), ((80, 107), (167, 224)), ((320, 240), (224, 168)), ((224, 224), (224, 224))],
)
def test_the_longer_side_becomes_224(before: tuple[int, int], after: tuple[int, int]) -> None:
    assert scaled_size(*before) == after
    assert shrink(np.zeros((*before, 3), np.uint8)).shape == (*after, 3)


def test_a_strip_is_refused() -> None:
    with pytest.raises(DataError, match="800 x 20 px are too narrow"):
        scaled_size(20, 800)


def test_detail_is_that_of_the_slow_version() -> None:
    for size in ((90, 224), (167, 224), (224, 101)):  # even and odd sides of the Fourier transform
        frame = _texture(*size, 0)
        got, wanted = detail_maps(frame), _slow_detail(frame)
        np.testing.assert_allclose(got[:4], wanted[:4], rtol=1e-3, atol=1e-4)
        # A filtered value within rounding of a half may fall to either side, which 25 gradients then show.
        assert np.sum(~np.isclose(got[4:], wanted[4:], rtol=1e-3, atol=1e-4)) <= 4 * 25


def test_detail_of_real_frames_is_that_of_the_slow_version(real_frames: list[Image]) -> None:
    got, wanted = detail_maps(real_frames[0]), _slow_detail(real_frames[0])
    # A filtered value within rounding of a half may fall to either side.
    assert np.mean(~np.isclose(got, wanted, rtol=1e-3, atol=1e-3)) < 1e-4


def test_filtered_grey_is_what_opencv_gives(real_frames: list[Image]) -> None:
    grey = cv2.cvtColor(real_frames[3].astype(np.float32) / 255, cv2.COLOR_RGB2GRAY)
    got = detail_maps(real_frames[3])[4:]
    for kernel, detail in zip(gabor_kernels(), got, strict=True):
        stored = cv2.filter2D(grey, cv2.CV_8U, kernel)
        across, down = (cv2.Sobel(stored, cv2.CV_64F, 1 - axis, axis, ksize=5) for axis in (0, 1))
        assert np.mean(~np.isclose(detail, np.hypot(across, down), rtol=1e-4)) < 1e-3


def test_accelerations_of_a_wide_and_a_tall_frame() -> None:
    _check_accelerations(_texture(120, 224, 1), seed=1)
    _check_accelerations(_texture(224, 96, 2), seed=2)


def test_accelerations_of_real_frames(real_frames: list[Image]) -> None:
    _check_accelerations(real_frames[0], seed=3)
    _check_accelerations(real_frames[-1], seed=4)


def test_an_empty_frame_pulls_nowhere() -> None:
    field = Field(detail_maps(np.full((168, 224, 3), 90, np.uint8)))
    assert field.acceleration(40, 50) == pytest.approx((0, 0), abs=1e-6)


def test_outside_the_frame_its_border_pulls() -> None:
    field = Field(detail_maps(_texture(100, 224, 5)))
    assert field.acceleration(-3.2, 500) == field.acceleration(0, 223)
    assert field.acceleration(40.9, 7.2) == field.acceleration(40, 7)


def test_detail_to_the_right_pulls_to_the_right() -> None:
    frame = np.zeros((168, 224, 3), np.uint8)
    cv2.circle(frame, (180, 84), 6, (255, 255, 255), cv2.FILLED)
    down, across = Field(detail_maps(frame)).acceleration(84, 120)
    assert across > 100 * abs(down)


def test_attraction_by_hand() -> None:
    pull = attraction(6, 40)  # a window of 41: 41 // 10 = 4
    assert pull.shape == (2, 11, 79)
    assert pull[:, 5, 39].tolist() == [0, 0]
    assert pull[:, 5 + 2, 39 - 1] == pytest.approx([5 * 2 / (5 + 4), 5 * -1 / (5 + 4)])
    assert pull[1, 5, 39 + 20] == pytest.approx(5 * 20 / 404)
    assert pull[:, 5, 39 + 21].tolist() == [0, 0]  # outside the window


# Motion ---------------------------------------------------------------------------------------------------------------


def test_coast_is_the_solution() -> None:
    exact = solve_ivp(lambda _, y: [y[1], 4.2 - 1.5 * y[1]], (0, 0.7), [0, -2.0], rtol=1e-10, atol=1e-10).y[:, -1]
    assert coast(-2.0, 4.2, 0.7) == pytest.approx(exact, rel=1e-8)


def test_the_gaze_begins_near_the_centre() -> None:
    states = np.stack([start(generator(seed, "test"), 168, 224) for seed in range(300)])
    away, speed = states[:, 0] - [84, 112], np.abs(states[:, 1])
    assert np.abs(away).max() == 28  # int(0.17 * 168)
    assert (states[:, 0] == states[:, 0].round()).all()
    assert speed.min() > 0.6
    assert speed.max() < 1.4
    assert np.abs((states[:, 1] > 0).mean(0) - 0.5).max() < 0.1


def test_inhibition_of_return() -> None:
    y, x = np.mgrid[:168, :224]
    disc = ((y - 84) ** 2 + (x - 100) ** 2 <= 35**2).astype(float)
    sigma = 0.3 * ((51 - 1) * 0.5 - 1) + 0.8
    blob = ndimage.gaussian_filter(disc, sigma, truncate=25 / sigma)
    once = inhibited(np.zeros((168, 224), np.float32), 84.9, 100.2)
    np.testing.assert_allclose(once, blob / blob.max(), atol=0.01)  # OpenCV's disc has another edge
    twice = inhibited(once, 84.0, 100.0)
    np.testing.assert_allclose(twice, np.minimum(0.9 * once + once, 1), atol=1e-6)
    # The disc stays within the frame.
    corner = inhibited(np.zeros((168, 224), np.float32), 5, 218)
    assert np.unravel_index(corner.argmax(), corner.shape) == pytest.approx((35, 188), abs=12)
    assert inhibited(np.zeros((40, 224), np.float32), 5, 5).max() == 1


def test_inhibition_comes_three_times_a_second() -> None:
    gaze, moved = Gaze(168, 224, rng=generator(1, "test"), fps=25.0), []
    maps = detail_maps(_texture(168, 224, 6))
    for _ in range(17):
        gaze.look(maps)
        moved.append(gaze._inhibition.sum())
    changes = [t for t, (before, after) in enumerate(zip([0, *moved], moved, strict=False)) if before != after]
    assert changes == [7, 15]  # every int(25 / 3) = 8 frames


def _motion(field: Field, y: Array) -> Array:
    down, across = field.acceleration(y[0], y[1])
    return np.array([y[2], y[3], down - 1.5 * y[2], across - 1.5 * y[3]])


def _exact(field: Field, y: Array, steps: int = 400) -> Array:
    """The classical Runge-Kutta method in tiny steps: the pull jumps at pixels, which adaptive solvers take badly."""
    h = 0.9 / steps
    for _ in range(steps):
        k1 = _motion(field, y)
        k2 = _motion(field, y + h / 2 * k1)
        k3 = _motion(field, y + h / 2 * k2)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + _motion(field, y + h * k3))
    return y


def test_the_integration_is_nearer_to_the_truth_than_the_release(real_frames: list[Image]) -> None:
    gaze, ours, theirs = Gaze(*real_frames[0].shape[:2], rng=generator(2, "test"), fps=25.0), [], []
    for frame in real_frames[:7]:  # no inhibition yet
        field, times = Field(detail_maps(frame)), np.arange(0, 1, 0.1)
        before = np.array([gaze._row, gaze._column, gaze._row_speed, gaze._column_speed])
        exact = _exact(field, before)[:2]
        release = odeint(lambda y, _, field: _motion(field, y), before, times, args=(field,), rtol=0.1, atol=0.1)[-1]
        ours.append(np.linalg.norm(gaze.look(detail_maps(frame)) - exact))
        theirs.append(np.linalg.norm(release[:2] - exact))
    assert np.mean(ours) < 0.06  # px
    assert np.max(ours) < 0.25
    assert np.mean(ours) < 0.5 * np.mean(theirs)


def test_steps_make_up_the_release_s_frame() -> None:
    assert pytest.approx(0.9) == STEPS * STEP_FRAMES


def test_the_gaze_wanders_and_stays_inside() -> None:
    frames = _drifting(168, 224, 100, 7)
    places = follow(frames, rng=generator(3, "test"), fps=25.0) * [168, 224]
    assert places.shape == (100, 2)
    assert (places >= 5).all()
    assert (places <= [162, 218]).all()
    # Nowhere does it rest for two seconds.
    assert min(np.ptp(places[t : t + 50], axis=0).max() for t in range(50)) > 20


def test_a_gaze_depends_on_its_seed_alone() -> None:
    frames = _drifting(100, 224, 12, 8)
    first, again, other = (follow(frames, rng=generator(seed, "test"), fps=25.0) for seed in (4, 4, 5))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.02


def test_detail_does_not_depend_on_where_it_lies_in_memory() -> None:
    frame, rng = _texture(100, 224, 14), np.random.default_rng(0)
    first = detail_maps(frame)
    for _ in range(40):
        between = [np.empty(rng.integers(1, 200_000), np.uint8) for _ in range(3)]
        np.testing.assert_array_equal(detail_maps(frame), first)
        del between


# Batches --------------------------------------------------------------------------------------------------------------


def test_detail_of_a_batch() -> None:
    frames = np.stack([_texture(100, 224, seed) for seed in (9, 10)])
    got = detail_maps_batch(torch.from_numpy(frames)).numpy()
    wanted = np.stack([detail_maps(frame) for frame in frames])
    assert np.mean(~np.isclose(got, wanted, rtol=1e-3, atol=1e-3)) < 1e-4


def test_a_batch_moves_as_its_videos_do_alone() -> None:
    videos = [_drifting(100, 224, 18, seed) for seed in (11, 12, 13)]
    rngs = [generator(seed, "test") for seed in range(3)]
    gazes = GazeBatch(100, 224, rngs=rngs, fps=25.0, device=torch.device("cpu"))
    together = [gazes.look(torch.from_numpy(np.stack(frames))).numpy() for frames in zip(*videos, strict=True)]
    for number, video in enumerate(videos):
        alone = follow(video, rng=generator(number, "test"), fps=25.0) * [100, 224]
        np.testing.assert_allclose(np.stack(together)[:, number], alone, atol=0.05)  # px
