"""How the toy's layer of things moves: one class, one motion, and the same law of what any single frame shows.

The layer's position, size and angle are functions of phases and a small displacement that are drawn uniformly, whatever
the class. All phases drift slowly, so that two moments of a video have little in common but the motion; a class says
which of them run fast. Since a uniform phase stays uniform when it runs, the state in any one frame follows the same
law in all classes. (Slant and Orbit tie the two phases of the position together, which moves its joint law a little.)
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["MOTIONS", "Trajectory", "draw_trajectory"]

MOTIONS = ("Bob", "Hop", "Orbit", "Pulse", "Shake", "Slant", "Spin", "Sway")
"""The classes: up and down, jumps between places, round, larger and smaller, trembling, along a diagonal, turning on
the spot, left and right. Each is itself when mirrored, for training flips clips."""

FloatArray = npt.NDArray[np.float64]

_AMPLITUDE = (0.16, 0.20)
"""Of the position, parts of the frame's height."""
_SHAKE = (0.08, 0.11)
_ZOOM = 0.30
"""Of the size, as a part of it."""
_SPIN_FRAMES = (16.0, 22.0)
"""Frames of a full turn; slower than the rest, for far from the centre a turn is a long way."""
_PERIOD_FRAMES = (6.0, 9.0)
"""Short, so that clips of 8 frames show what goes on."""
_DRIFT_FRAMES = (60.0, 90.0)
_HOLD_FRAMES = (2, 4)


@dataclass(frozen=True, slots=True)
class Trajectory:
    """State of the layer in each frame, arrays of `[frames]`."""

    x: FloatArray
    """Centre, px right of the frame's centre."""
    y: FloatArray
    """Centre, px below the frame's centre."""
    scale: FloatArray
    """Enlarged by."""
    angle: FloatArray
    """Turned by, radians."""


def _turning(rng: np.random.Generator, frames: int, period_frames: tuple[float, float]) -> FloatArray:
    """Phase added in each frame by steady turning, either way, at a period from a range."""
    direction = int(rng.choice((-1, 1)))
    return np.asarray(direction * 2 * np.pi * np.arange(frames) / rng.uniform(*period_frames), dtype=np.float64)


def _hops(rng: np.random.Generator, frames: int) -> FloatArray:
    """Phase added in each frame: constant for some frames, then another; a jump never depends on where it starts."""
    steps = np.zeros(frames)
    at = int(rng.integers(1, _HOLD_FRAMES[1]))
    while at < frames:
        steps[at] = rng.uniform(0.5, 1.5) * np.pi
        at += int(rng.integers(*_HOLD_FRAMES))
    return np.cumsum(steps)


def draw_trajectory(motion: str, rng: np.random.Generator, *, frames: int, height: int) -> Trajectory:
    """States of a layer of things that moves in one of `MOTIONS`.

    Args:
        motion: The class.
        rng: Source of speed, amplitude, direction and phases.
        frames: Length of the video.
        height: Of the frame, px.
    """
    amplitude, shake = (rng.uniform(*bounds) * height for bounds in (_AMPLITUDE, _SHAKE))
    phases = {
        name: rng.uniform(0, 2 * np.pi) + _turning(rng, frames, _DRIFT_FRAMES) for name in ("x", "y", "size", "angle")
    }
    tremble = np.broadcast_to(rng.uniform(-shake, shake, size=(2, 1)), (2, frames))

    turn = _turning(rng, frames, _PERIOD_FRAMES)
    quarter = rng.choice((-0.5, 0.5)) * np.pi
    if motion == "Orbit":
        phases["y"] = phases["x"] + quarter
    elif motion == "Slant":
        phases["y"] = phases["x"] + quarter + np.pi / 2
    for name in {"Sway": "x", "Bob": "y", "Orbit": "xy", "Slant": "xy"}.get(motion, ""):
        phases[name] = phases[name] + turn
    if motion == "Hop":
        phases["x"], phases["y"] = phases["x"] + _hops(rng, frames), phases["y"] + _hops(rng, frames)
    elif motion == "Pulse":
        phases["size"] = phases["size"] + turn
    elif motion == "Spin":
        phases["angle"] = phases["angle"] + _turning(rng, frames, _SPIN_FRAMES)
    elif motion == "Shake":
        tremble = rng.uniform(-shake, shake, size=(2, frames))
    return Trajectory(
        x=amplitude * np.sin(phases["x"]) + tremble[0],
        y=amplitude * np.sin(phases["y"]) + tremble[1],
        scale=1 + _ZOOM * np.sin(phases["size"]),
        angle=phases["angle"],
    )
