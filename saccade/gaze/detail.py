"""What draws the eye in a frame: eight maps of visual detail, as the public implementation of G-Eymol makes them.

The frame is scaled to a longer side of 224 px. Its features are the three colours, their grey, and the grey seen
through four Gabor filters; detail is the magnitude of a feature's gradient. Detail maps are `[8, h, w]`, h and w those
of the scaled frame.
"""

from collections.abc import Iterator
from functools import lru_cache
from itertools import chain

import cv2
import numpy as np
import numpy.typing as npt

from saccade.errors import DataError

__all__ = [
    "GABOR_RADIUS_PX",
    "MAPS",
    "SOBEL_PX",
    "Image",
    "Maps",
    "detail_maps",
    "gabor_kernels",
    "scaled_size",
    "shrink",
]

Image = npt.NDArray[np.uint8]
Maps = npt.NDArray[np.float32]

MAPS = 8
"""Detail maps of a frame."""
GABOR_RADIUS_PX = 10
"""Gabor kernels are 21 x 21."""
SOBEL_PX = 5
"""Side of the kernels that take a gradient."""

_LONG_SIDE_PX = 224
_LEAST_SIDE_PX = GABOR_RADIUS_PX + 1
"""A shorter side cannot be mirrored at its border as the filters need it."""
_GABOR_SIGMA_PX, _GABOR_WAVELENGTH_PX, _GABOR_ASPECT = 8.0, 10.0, 0.5


def scaled_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of a frame once its longer side is 224 px; fractions are cut off, as in the release.

    Raises:
        DataError: The frame is so narrow that less than 11 px are left of its shorter side.
    """
    longer = max(height, width)
    scaled = _LONG_SIDE_PX * height // longer, _LONG_SIDE_PX * width // longer
    if min(scaled) < _LEAST_SIDE_PX:
        raise DataError(
            f"frames of {width} x {height} px are too narrow for a gaze; the longer side may be 20 times the shorter"
        )
    return scaled


def shrink(frame: Image) -> Image:
    """Scale a frame `[H, W, 3]` to a longer side of 224 px, bicubic."""
    height, width = scaled_size(*frame.shape[:2])
    return np.asarray(cv2.resize(frame, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


@lru_cache(maxsize=1)
def gabor_kernels() -> Maps:
    """The four kernels, `[4, 21, 21]`: theta 0, 45, 90 and 135 degrees, phase 0."""
    side = 2 * GABOR_RADIUS_PX + 1
    shape = {"sigma": _GABOR_SIGMA_PX, "lambd": _GABOR_WAVELENGTH_PX, "gamma": _GABOR_ASPECT, "psi": 0}
    angles = np.pi * np.array([0, 0.25, 0.5, 0.75])
    return np.stack([cv2.getGaborKernel((side, side), theta=theta, ktype=cv2.CV_32F, **shape) for theta in angles])


@lru_cache(maxsize=8)
def _gabor_spectra(rows: int, columns: int) -> list[Maps]:
    """Spectra of the kernels on a plane of `rows` x `columns`, to be multiplied with one in OpenCV's packed form.

    Kernels that are even and centred at the origin have real spectra: each number stands at the place of the real part
    and at that of the imaginary part.
    """
    planes = np.zeros((4, rows, columns), np.float32)
    planes[:, : 2 * GABOR_RADIUS_PX + 1, : 2 * GABOR_RADIUS_PX + 1] = gabor_kernels()
    planes = np.roll(planes, (-GABOR_RADIUS_PX, -GABOR_RADIUS_PX), axis=(1, 2))
    spectra = [np.asarray(cv2.dft(plane), np.float32) for plane in planes]
    for spectrum in spectra:
        spectrum[:, 2::2] = spectrum[:, 1:-1:2]
        # The first column, and the last of an even number, are packed along themselves.
        for column in {0, columns - 1 + columns % 2} - {columns}:
            spectrum[2::2, column] = spectrum[1:-1:2, column]
    return spectra


def _gabor_maps(grey: Maps) -> Iterator[Maps]:
    """Grey `[h, w]` in [0, 1] through each filter: whole numbers from 0 to 255, as in unsigned bytes.

    One Fourier transform there and four back, where filter2D takes a pair for each kernel. The kernels are even, so
    that convolution, which products of spectra give, is the correlation that is meant.
    """
    height, width = grey.shape
    border = GABOR_RADIUS_PX
    rows, columns = cv2.getOptimalDFTSize(height + 2 * border), cv2.getOptimalDFTSize(width + 2 * border)
    below, right = rows - height - border, columns - width - border
    spectrum = cv2.dft(cv2.copyMakeBorder(grey, border, below, border, right, cv2.BORDER_REFLECT_101))
    back = cv2.DFT_INVERSE | cv2.DFT_SCALE | cv2.DFT_REAL_OUTPUT
    for kernel in _gabor_spectra(rows, columns):
        plane = cv2.dft(spectrum * kernel, flags=back)
        filtered = np.rint(plane[border : border + height, border : border + width])
        yield np.clip(filtered, 0, 255, out=filtered)


def detail_maps(frame: Image) -> Maps:
    """Detail maps `[8, h, w]` of a scaled RGB frame `[h, w, 3]`."""
    grey = np.asarray(cv2.cvtColor(frame.astype(np.float32), cv2.COLOR_RGB2GRAY), np.float32)
    grey *= np.float32(1 / 255)
    maps = np.empty((MAPS, *grey.shape), np.float32)
    # One after the other, for each to be in the processor's cache when its gradient is taken.
    for number, feature in enumerate(chain(cv2.split(frame), [grey], _gabor_maps(grey))):
        scale = 1 / 255 if number < 3 else 1.0  # bytes to [0, 1]
        across = cv2.Sobel(feature, cv2.CV_32F, 1, 0, ksize=SOBEL_PX, scale=scale)
        down = cv2.Sobel(feature, cv2.CV_32F, 0, 1, ksize=SOBEL_PX, scale=scale)
        # cv2.magnitude rounds as its arguments happen to lie in memory, and a gaze makes much of small differences.
        np.sqrt(np.add(np.square(across, out=across), np.square(down, out=down), out=down), out=maps[number])
    return maps
