"""The `search` section of a sweep: each of its lines checked against the setting that it is about."""

import difflib
from collections.abc import Mapping, Sequence

import pydantic

from saccade.errors import SpecError, shorten
from saccade.spec_reader import read_spec
from saccade.spec_wording import is_section, settings
from saccade.sweep.spec import BASE, Dimension, Plain, Section, Sweep, as_override
from saccade.yaml_marks import Node

__all__ = ["own_part", "read_dimensions"]

_NOT_SEARCHED = {
    "name": "each trial gets a name of its own",
    "then": "a trial is one run",
    "tracking": "all trials are recorded at one place",
    "checkpoint": "it changes no score",
    "engine": "it changes no score",
    "data.root": "it is a matter of the machine",
}
_WIDEST = 2.0**53
"""Steps of a range, or the ends of a logarithmic one apart: up to here floats count one by one."""


class _Range(Section):
    min: float
    max: float
    step: float | None = None
    log: bool = False


def own_part(message: str, override: str) -> str:
    """What a message of `read_spec` says of an override; empty when it is about something else."""
    prefix = f"--set {shorten(override, 100)}: "
    return message.removeprefix(prefix) if message.startswith(prefix) else ""


def read_dimensions(node: Node, sweep: Sweep) -> tuple[Dimension, ...]:
    """The checked dimensions of a sweep, in the order of the file.

    Args:
        node: What stands below `search`.
        sweep: The sweep without them.

    Raises:
        SpecError: A path, an end of a range, a choice or a condition that cannot be.
    """
    if not isinstance(node.value, dict) or not node.value:
        raise SpecError(
            f"{node.where}: search: must be settings by their dotted paths, such as "
            "'pretrain.learning_rate: {min: 1e-3, max: 0.3, log: true}'"
        )
    found = [_dimension(path, each, sweep) for path, each in node.value.items()]
    _check_conditions(found)
    for dimension, each in zip(found, node.value.values(), strict=True):
        _check_values(dimension, each, found, sweep)
    return tuple(found)


def _dimension(path: str, node: Node, sweep: Sweep) -> Dimension:
    _check_path(path, node, sweep)
    where = f"{node.where}: search.{path}"
    when: Mapping[str, tuple[Plain, ...]] = {}
    if isinstance(node.value, dict) and "when" in node.value:
        when = _conditions(node.value["when"], where)
    if isinstance(node.value, list) or (isinstance(node.value, dict) and "choices" in node.value):
        return Dimension(path=path, choices=_choices(node, where), when=when, where=where)
    if not isinstance(node.value, dict):
        raise SpecError(f"{where}: must be a list of choices, or a range such as {{min: 1, max: 8}}")
    if path == BASE or _kind(path) not in ("integer", "number"):
        raise SpecError(f"{where}: has no range, for it is not a number; list its choices, such as [a, b]")
    return _range(path, node, when, where)


def _kind(path: str) -> str:
    schema = settings()[path]
    options = schema.get("anyOf") or [schema]
    return str(options[0].get("type", ""))


def _check_path(path: str, node: Node, sweep: Sweep) -> None:
    where = f"{node.where}: search.{shorten(path, 100)}"
    for prefix, why in _NOT_SEARCHED.items():
        if path == prefix or path.startswith(f"{prefix}."):
            raise SpecError(f"{where}: cannot be searched, since {why}; remove it")
    if path == BASE:
        return
    if path not in settings() or is_section(path):
        # Told in the words of `--set`, which knows the nearest path.
        try:
            read_spec(sweep.experiment, [f"{path}=0"])
        except SpecError as error:
            raise SpecError(f"{where}: {own_part(str(error), f'{path}=0') or error}") from None
    if any(override.startswith(f"{path}=") for override in sweep.fixed):
        raise SpecError(f"{where}: is set to one value below 'set:' too; remove one of them")


def _choices(node: Node, where: str) -> tuple[Plain, ...]:
    if isinstance(node.value, dict):
        _refuse_unknown(node, ("choices", "when"), where)
        node = node.value["choices"]
    if not isinstance(node.value, list) or len(node.value) < 1:
        raise SpecError(f"{where}: choices: must be a list of one or more values, such as [1, 2]")
    values = [_frozen(each.plain()) for each in node.value]
    for number, value in enumerate(values):
        if value in values[:number] and type(value) is type(values[values.index(value)]):
            raise SpecError(f"{where}: {value} stands in it twice; remove one")
    return tuple(values)


def _frozen(value: object) -> Plain:
    return tuple(value) if isinstance(value, list) else value  # type: ignore[return-value]


def _range(path: str, node: Node, when: Mapping[str, tuple[Plain, ...]], where: str) -> Dimension:
    _refuse_unknown(node, (*_Range.model_fields, "when"), where)
    assert isinstance(node.value, dict)
    given = {key: each.plain() for key, each in node.value.items() if key != "when"}
    try:
        found = _Range.model_validate(given)
    except pydantic.ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = str(problem["loc"][0])
        if problem["type"] == "missing":
            raise SpecError(f"{where}: {key} is missing; a range is {{min: 1, max: 8}}") from None
        kind = "true or false" if key == "log" else "a number"
        raise SpecError(f"{where}: {key} must be {kind}; got {shorten(node.value[key].text) or 'none'}") from None
    whole = _kind(path) == "integer"
    wrong = _wrong_range(found, whole)
    if wrong:
        raise SpecError(f"{where}: {wrong}")
    step = found.step if found.step is not None else 1.0 if whole else None
    return Dimension(
        path=path, low=found.min, high=found.max, step=step, log=found.log, whole=whole, when=when, where=where
    )


def _wrong_range(given: _Range, whole: bool) -> str:
    if given.min >= given.max:
        return f"min {given.min:g} is not below max {given.max:g}"
    if given.step is not None and given.step <= 0:
        return f"step {given.step:g} is not above 0"
    if given.log and given.min <= 0:
        return f"min {given.min:g} has no logarithm; log: true needs a min above 0"
    width = given.max / given.min if given.log else (given.max - given.min) / (given.step or 1.0)
    if not width <= _WIDEST:
        return f"from {given.min:g} to {given.max:g} there are more steps than a number can count; make it narrower"
    if given.log and given.step is not None:
        return "log and step do not go together; remove one"
    if whole and not all(value == int(value) for value in (given.min, given.max, given.step or 1)):
        return "the setting takes whole numbers, so min, max and step have to be whole"
    if given.step is not None:
        steps = (given.max - given.min) / given.step
        if abs(steps - round(steps)) > 1e-9 * max(1.0, steps):
            last = given.min + int(steps) * given.step
            return f"steps of {given.step:g} from {given.min:g} do not end at max {given.max:g}; make it {last:g}"
    return ""


def _refuse_unknown(node: Node, allowed: Sequence[str], where: str) -> None:
    assert isinstance(node.value, dict)
    for key, child in node.value.items():
        if key not in allowed:
            near = difflib.get_close_matches(key[:100], allowed, n=1)
            hint = f"did you mean {near[0]}?" if near else f"allowed: {', '.join(allowed)}"
            raise SpecError(f"{child.where}: {where.partition(': ')[2]}: {shorten(key)}: unknown key, {hint}")


def _conditions(node: Node, where: str) -> Mapping[str, tuple[Plain, ...]]:
    if not isinstance(node.value, dict) or not node.value:
        raise SpecError(f"{where}: when: must be a searched path and its value, such as {{pretrain.optimizer: sgd}}")
    return {
        path: tuple(_frozen(each.plain()) for each in value.value)
        if isinstance(value.value, list)
        else (_frozen(value.plain()),)
        for path, value in node.value.items()
    }


def _check_conditions(dimensions: Sequence[Dimension]) -> None:
    """Conditions are about choices that stand above: then there is an order to draw in, and no circle."""
    above: dict[str, Dimension] = {}
    for dimension in dimensions:
        for path, values in dimension.when.items():
            on = above.get(path)
            if on is None:
                below = any(each.path == path for each in dimensions)
                hint = "move it above this line" if below else "a condition is about another setting that is searched"
                raise SpecError(f"{dimension.where}: when: {shorten(path, 100)}: is not searched above; {hint}")
            if not on.choices:
                raise SpecError(f"{dimension.where}: when: {path}: has a range; a condition needs a list of choices")
            missing = [value for value in values if value not in on.choices]
            if missing:
                allowed = ", ".join(map(str, on.choices))
                raise SpecError(f"{dimension.where}: when: {path}: is never {missing[0]}; its choices are {allowed}")
        above[dimension.path] = dimension


def _check_values(dimension: Dimension, node: Node, others: Sequence[Dimension], sweep: Sweep) -> None:
    """Refuse an end or a choice that the setting does not take, or that does not go with the rest of the experiment."""
    needed = {path: values[0] for path, values in _needed(dimension, others).items()}
    ends = [(f"{name} ", value) for name, value in (("min", dimension.low), ("max", dimension.high))]
    values = [("", value) for value in dimension.choices] or [
        (name, int(value) if dimension.whole else value) for name, value in ends
    ]
    for name, value in values:
        try:
            sweep.trial_spec({**needed, dimension.path: value})
        except SpecError as error:
            override = as_override(dimension.path, value)
            told = own_part(str(error), override) or str(error)
            shown = override.partition("=")[2]
            raise SpecError(f"{dimension.where}: {name}{shorten(shown)}: {told}") from None


def _needed(dimension: Dimension, others: Sequence[Dimension]) -> dict[str, tuple[Plain, ...]]:
    """The conditions of a dimension, and those of what they are about."""
    needed = dict(dimension.when)
    for path in dimension.when:
        (on,) = [each for each in others if each.path == path]
        needed = {**_needed(on, others), **needed}
    return needed
