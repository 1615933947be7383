import json
from collections.abc import Callable, Iterator

import cv2
import pytest
import torch

from saccade.bench import measure
from saccade.bench.measure import Report, Row, compare, one_thread


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[Iterator[float]], Callable[[], None]]:
    """Makes functions that take the CPU times given, in seconds."""
    now = [0.0]
    monkeypatch.setattr(measure.time, "process_time", lambda: now[0])

    def taking(seconds: Iterator[float]) -> Callable[[], None]:
        def function() -> None:
            now[0] += next(seconds)

        return function

    return taking


def test_medians_of_rounds_and_ratios_within_a_round(
    clock: Callable[[Iterator[float]], Callable[[], None]],
) -> None:
    # The first round does not count; in the third the machine is three times as slow for both.
    functions = {"slow": clock(iter([9.0, 2.0, 6.0, 2.0])), "fast": clock(iter([9.0, 0.5, 2.0, 1.0]))}
    slow, fast = compare("g", functions, amount=12, unit="frames/s", rounds=3)
    assert slow == Row("g", "slow", 6.0, "frames/s", None, (6.0, 2.0, 6.0))
    assert fast == Row("g", "fast", 12.0, "frames/s", 3.0, (24.0, 6.0, 12.0))  # ratios 4, 3 and 2


def test_times_of_functions_that_do_different_amounts(
    clock: Callable[[Iterator[float]], Callable[[], None]],
) -> None:
    functions = {"ten": clock(iter([0.0, 2.0])), "thirty": clock(iter([0.0, 1.0]))}
    ten, thirty = compare("g", functions, amount={"ten": 10, "thirty": 30}, unit="ms/frame", rounds=1)
    assert (ten.value, thirty.value) == pytest.approx((200.0, 1000 / 30))
    assert thirty.ratio == pytest.approx(6.0)
    functions = {"ten": clock(iter([0.0, 2.0])), "thirty": clock(iter([0.0, 1.0]))}
    assert [row.ratio for row in compare("g", functions, amount=1, unit="x/s", rounds=1, baseline=False)] == [
        None,
        None,
    ]


def test_a_report_as_table_and_as_json() -> None:
    rows = [Row("clips", "plain", 250.0, "frames/s", None, (250.0,)), Row("clips", "fast", 1.25, "frames/s", 5.0, ())]
    report = Report("data", {"rounds": 1}, rows, {"processor": "x"})
    assert str(report).splitlines() == [
        "processor x",
        "rounds 1",
        "",
        "clips  frames/s  x baseline",
        "plain       250",
        "fast       1.25        5.00",
    ]
    found = json.loads(report.as_json())
    assert found["rows"][1]["ratio"] == 5.0
    assert found["rows"][0]["rounds"] == [250.0]
    assert {"processor", "cores", "load", "python", "packages"} == Report("data", {}).machine.keys()


def test_one_thread_is_given_back() -> None:
    torch.set_num_threads(2)
    cv2.setNumThreads(2)
    with one_thread():
        assert (torch.get_num_threads(), cv2.getNumThreads()) == (1, 1)
    assert (torch.get_num_threads(), cv2.getNumThreads()) == (2, 2)
