"""The trainer is started while the tracking server is asked, and begins when told to."""

import sys
import time
from collections.abc import Callable

import pytest

from saccade import supervisor
from saccade.run_dir import RunDir, create_run
from saccade.spec import Spec
from saccade.supervisor import supervise
from saccade.tracking.address import local_uri, sqlite_file

from ..supervised import curve, history, tracked, train

# MLflow's own use of SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")


@pytest.fixture
def after_asking(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Do something when the server has answered and the trainer has not had the word yet."""
    ask = supervisor._await_tracking

    def set_up(act: Callable[[], object]) -> None:
        def asked(*given: object, **options: float) -> None:
            ask(*given, **options)
            act()

        monkeypatch.setattr(supervisor, "_await_tracking", asked)

    return set_up


def test_until_then_it_touches_nothing(run: RunDir, after_asking: Callable[..., None]) -> None:
    """The stub writes a line at once when it begins; two seconds are enough for it to start."""
    before: list[bool] = []
    after_asking(lambda: (time.sleep(2), before.append(run.journal.exists())))
    assert train(run, ["train", 3]) == 0
    assert before == [False]
    assert history(run, "pretrain/loss") == curve(3)


def test_one_that_dies_before_it_is_told_is_a_failure(run: RunDir, after_asking: Callable[..., None]) -> None:
    after_asking(lambda: time.sleep(1))
    command = [sys.executable, "-c", "raise SystemExit('no module named torch')"]
    assert supervise(run, resume=False, tracking_uri=None, experiment="tests", command=command) == 1
    found = tracked(run)
    assert found.info.status == "FAILED"
    assert found.data.tags["saccade.failure"] == "no module named torch"


def test_two_processes_each_get_the_word(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """As below torchrun, which hands its standard input on."""
    reader = "import os; os.read(0, 1)"
    code = f"import subprocess, sys; both = [subprocess.Popen([sys.executable, '-c', {reader!r}]) for _ in '12']; "
    code += "sys.exit(sum(process.wait(20) for process in both))"
    record = run.record()
    monkeypatch.setattr(RunDir, "record", lambda self: {**record, "processes": 2})
    command = [sys.executable, "-c", code]
    assert supervise(run, resume=False, tracking_uri=None, experiment="tests", command=command) == 0


def test_a_database_that_is_still_to_be_made_is_not_waited_for(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    sqlite_file(local_uri(run.root)).unlink(missing_ok=True)  # type: ignore[union-attr]
    ask, waits = supervisor._await_tracking, []

    def asked(*given: object, **options: float) -> None:
        waits.append(options["patience_sec"])
        ask(*given, **options)

    monkeypatch.setattr(supervisor, "_await_tracking", asked)
    second = create_run(run.root, Spec(name="second"), ["saccade", "run"])
    for each in (run, second):
        assert train(each, ["train", 3]) == 0
        assert history(each, "pretrain/loss") == curve(3)
    assert waits == [0.0, 10.0]
