"""What MLflow does not do at once, done at once by runs that share an experiment; and what its client raises."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from saccade.tracking.errors import OutageError, line, translated
from saccade.tracking.store import Store

# MLflow's own use of SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")

RUNS, TIMES = 4, 5


@pytest.mark.parametrize("time", range(TIMES))
def test_datasets_named_by_several_runs_at_once(server: str, tmp_path: Path, time: int) -> None:
    names = [f"toy split 1 {context}" for context in ("train", "validation", "test")]
    uses = [{"name": name, "digest": "a", "context": name[12:], "source": "/d", "profile": {}} for name in names]
    store = Store(server, tmp_path)
    experiment = store.open_experiment(f"at once {time}")
    runs = [store.open_run(experiment, f"run-{n}", name="n", start_ms=1, tags={}) for n in range(RUNS)]
    together = Barrier(RUNS)

    def log(run: str) -> None:
        own = Store(server, tmp_path)
        together.wait()
        own.log_datasets(run, uses)

    with ThreadPoolExecutor(RUNS) as pool:
        list(pool.map(log, runs))
    for run in runs:
        assert [use.dataset.name for use in store.client.get_run(run).inputs.dataset_inputs] == names


def test_a_mistake_of_ours_is_no_outage() -> None:
    with pytest.raises(OutageError, match=r"cannot read .*JSONDecodeError"), translated():
        json.loads("<p>")  # as MLflow's client does
    with pytest.raises(AttributeError), translated():
        line(5)  # type: ignore[arg-type]
