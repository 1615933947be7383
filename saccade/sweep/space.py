"""Points of a search space: drawn by Optuna, listed for a grid, or those of the experiment itself."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from saccade.errors import SpecError
from saccade.rng import generator
from saccade.spec import Spec
from saccade.sweep.spec import BASE, Dimension, Plain, Sweep, as_override

if TYPE_CHECKING:
    import optuna

__all__ = ["SAMPLED_POINTS", "Point", "Space", "setting"]

SAMPLED_POINTS = 32
"""Points that are tried when a sweep is read; half of them are of ends and choices only."""
MAX_GRID = 10_000

Point = dict[str, Plain]
"""Path of each setting that a trial searches -> its value."""


def setting(spec: Spec, path: str) -> Plain:
    """The value of a setting by its dotted path."""
    value: object = spec
    for part in path.split("."):
        value = getattr(value, part)
    assert not hasattr(value, "model_fields")
    return value  # type: ignore[return-value]


class Space:
    """A search space.

    Args:
        dimensions: What is searched; conditions are about those before.
    """

    def __init__(self, dimensions: Sequence[Dimension]) -> None:
        self.dimensions = tuple(dimensions)

    # What Optuna sees ------------------------------------------------------------------------------------------------

    def distribution(self, dimension: Dimension) -> "optuna.distributions.BaseDistribution":
        """A dimension as Optuna describes it. Lists of numbers become text, since Optuna's choices are scalars."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if dimension.choices:
            return CategoricalDistribution([_encoded(value) for value in dimension.choices])
        if dimension.whole:
            step = int(dimension.step or 1)
            return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log, step=step)
        return FloatDistribution(dimension.low, dimension.high, log=dimension.log, step=dimension.step)

    def draw(self, trial: "optuna.Trial") -> Point:
        """Have Optuna choose a point, or read what it has chosen before."""
        point: Point = {}
        for dimension in self._active(point):
            point[dimension.path] = self._drawn(dimension, trial)
        return point

    def _drawn(self, dimension: Dimension, trial: "optuna.Trial") -> Plain:
        if dimension.choices:
            chosen = trial.suggest_categorical(dimension.path, [_encoded(value) for value in dimension.choices])
            return next(value for value in dimension.choices if _same(_encoded(value), chosen))
        if dimension.whole:
            low, high, step = int(dimension.low), int(dimension.high), int(dimension.step or 1)
            return trial.suggest_int(dimension.path, low, high, step=step, log=dimension.log)
        return trial.suggest_float(
            dimension.path, dimension.low, dimension.high, step=dimension.step, log=dimension.log
        )

    def encoded(self, point: Mapping[str, Plain]) -> dict[str, bool | int | float | str | None]:
        """A point as Optuna stores it."""
        return {path: _encoded(value) for path, value in point.items()}

    def decoded(self, params: Mapping[str, object]) -> Point:
        """What `encoded` was made of."""
        point: Point = {}
        for dimension in self.dimensions:
            if dimension.path in params:
                stored = params[dimension.path]
                choices = [value for value in dimension.choices if _same(_encoded(value), stored)]
                point[dimension.path] = choices[0] if choices else stored  # type: ignore[assignment]
        return point

    def _active(self, point: Point) -> Iterator[Dimension]:
        """The dimensions whose conditions hold at a point that the caller is filling in meanwhile."""
        for dimension in self.dimensions:
            if all(path in point and point[path] in values for path, values in dimension.when.items()):
                yield dimension

    # Points that are not drawn ---------------------------------------------------------------------------------------

    def of_experiment(self, sweep: Sweep) -> Point:
        """Where in the space the experiment itself is."""
        point: Point = {}
        for dimension in self._active(point):
            own = sweep.file.experiment if dimension.path == BASE else setting(sweep.start, dimension.path)
            point[dimension.path] = int(own) if dimension.whole and isinstance(own, int) else own
        return point

    def outside(self, sweep: Sweep) -> str:
        """Which value of the experiment is not in the space, in words; empty when all are."""
        point = self.of_experiment(sweep)
        for dimension in self.dimensions:
            if dimension.path in point and not _contains(dimension, point[dimension.path]):
                shown = as_override(dimension.path, point[dimension.path])
                return f"trial 0 is the experiment as it is, but {shown} is not in the space"
        return ""

    def grid(self, first: Point | None) -> list[Point]:
        """Every point, in the order of the file.

        Args:
            first: A point that goes before all others.

        Raises:
            SpecError: There are more than `MAX_GRID`.
        """
        points: list[Point] = [{}]
        for dimension in self.dimensions:
            active = [dimension in self._active(dict(point)) for point in points]
            # Before they are made: a range may have billions of steps.
            if len(points) + sum(active) * ((len(dimension.choices) or _num_steps(dimension)) - 1) > MAX_GRID:
                raise SpecError(
                    f"{dimension.where}: the grid has more than {MAX_GRID} points; use fewer, or sampler tpe"
                )
            values = dimension.choices or [_step(dimension, number) for number in range(_num_steps(dimension))]
            points = [
                {**point, **extended}
                for point, is_active in zip(points, active, strict=True)
                for extended in ([{dimension.path: value} for value in values] if is_active else [{}])
            ]
        if first is not None:
            points = [first, *(point for point in points if point != first)]
        return points

    def sample(self, count: int) -> Iterator[Point]:
        """Points to try a space on: of the ends and choices first, then anywhere; always the same ones."""
        corners = [dimension.choices or _ends(dimension) for dimension in self.dimensions]
        if math.prod(len(values) for values in corners) <= count // 2:
            for values in itertools.product(*corners):
                yield self._filled(dict(zip((each.path for each in self.dimensions), values, strict=True)))
        for number in range(count):
            draws = generator(0, "sweep sample", number)
            whole: Point = {}
            for dimension, values in zip(self.dimensions, corners, strict=True):
                if dimension.choices or number % 2 == 0:
                    whole[dimension.path] = values[int(draws.integers(len(values)))]
                else:
                    whole[dimension.path] = _between(dimension, float(draws.random()))
            yield self._filled(whole)

    def _filled(self, values: Point) -> Point:
        point: Point = {}
        for dimension in self._active(point):
            point[dimension.path] = values[dimension.path]
        return point

    def impossible(self, sweep: Sweep, point: Point) -> str:
        """Why no trial can be at a point, in words; empty when one can."""
        try:
            sweep.trial_spec(point)
        except SpecError as error:
            at = ", ".join(as_override(path, value) for path, value in point.items())
            return f"trials at {at} could not run: {error}; narrow a range, or add a condition (when)"
        return ""


def _encoded(value: Plain) -> bool | int | float | str | None:
    return as_override("", value).removeprefix("=") if isinstance(value, tuple) else value


def _same(a: object, b: object) -> bool:
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def _ends(dimension: Dimension) -> tuple[int | float, ...]:
    return tuple(int(value) if dimension.whole else value for value in (dimension.low, dimension.high))


def _num_steps(dimension: Dimension) -> int:
    assert dimension.step is not None
    return round((dimension.high - dimension.low) / dimension.step) + 1


def _step(dimension: Dimension, number: int) -> int | float:
    assert dimension.step is not None
    value = dimension.low + number * dimension.step
    return int(value) if dimension.whole else float(f"{value:.12g}")


def _between(dimension: Dimension, part: float) -> int | float:
    if dimension.log:
        value = float(dimension.low * (dimension.high / dimension.low) ** part)
        return min(round(value), int(dimension.high)) if dimension.whole else value
    if dimension.step is None:
        return dimension.low + part * (dimension.high - dimension.low)
    return _step(dimension, int(part * _num_steps(dimension)))


def _contains(dimension: Dimension, value: Plain) -> bool:
    if dimension.choices:
        return any(_same(choice, value) for choice in dimension.choices)
    if not isinstance(value, int | float) or not dimension.low <= value <= dimension.high:
        return False
    if dimension.step is None or dimension.log:
        return True
    steps = (value - dimension.low) / dimension.step
    return abs(steps - round(steps)) < 1e-6
