"""Tracked runs, a server that shows them, and a browser to look at them with.

    SACCADE_SCREENS=docs/screens pytest tests/screens       writes the screenshots there

The runs are quickstarts made small, and with that variable not quite as small, for there to be something to see.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

TESTS = Path(__file__).parent.parent
EXPERIMENT = TESTS.parent / "experiments" / "quickstart.yaml"
SHOTS = os.environ.get("SACCADE_SCREENS", "")

_SMALL = """
clip.frames=4 clip.size=16 clip.eval_crop=40 encoder.width=4 contrast.num_negatives=16 contrast.projection_dim=8
prototypes.num_clusters=[4,6] prototypes.warmup_epoch=2 prototypes.every_epochs=2 pretrain.epochs=4
evaluation.retrieval.clips=2 evaluation.retrieval.topk=[1,5] tracking.log_every_steps=1 tracking.system_metrics_sec=1
"""
_MEDIUM = (
    "pretrain.epochs=9 prototypes.warmup_epoch=4 evaluation.retrieval.topk=[1,5,10,20] tracking.system_metrics_sec=3"
)
_PROBE = """
evaluation.linear_probe.enabled=true evaluation.linear_probe.epochs=8 evaluation.linear_probe.batch_size=8
evaluation.linear_probe.clips=2 evaluation.linear_probe.decay_epochs=[6] engine.threads=1
"""
_SEEDS = (632, 1)
_CHROMIUM = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
# The panel of an assistant that needs a language model would cover a quarter of every page.
_NO_ASSISTANT = """
localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");
localStorage.setItem("mlflow.assistant.panelOpen_v1", "false");
"""
_TIMEOUT_MS = 60_000


class Tracked(NamedTuple):
    """Runs of an experiment on a server: two seeds of one spec."""

    server: str
    experiment_id: str
    runs: list[Any]
    """As MLflow has them."""
    folders: list[Path]

    def link(self, path: str = "", **query: str) -> str:
        """A page of the experiment."""
        more = "".join(f"&{key}={value}" for key, value in query.items())
        return f"{self.server}/#/experiments/{self.experiment_id}/runs{path}?workflowType=machine_learning{more}"


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of the browser."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("no Chromium to look at pages with: apt-get install chromium")
    return path


@pytest.fixture(scope="session")
def tracked(
    chromium: str, server: str, make_toy: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Tracked:
    """Runs that are trained and tracked before anybody looks."""
    from saccade.run_dir import create_run
    from saccade.spec_reader import read_spec
    from saccade.supervisor import supervise
    from saccade.tracking.store import Store

    root = tmp_path_factory.mktemp("screens")
    overrides = _PROBE.split()
    if SHOTS:
        from saccade.datasets.toy import write_toy

        write_toy(root, train_per_class=8, test_per_class=4, frames=40, height=96, width=128)
        overrides += [*_MEDIUM.split(), f"data.root={root}"]
    else:
        overrides += [*_SMALL.split(), f"data.root={make_toy(train_per_class=2)}"]
    runs = []
    for number, seed in enumerate(_SEEDS):
        register = ["tracking.register_model=quickstart encoder"] if number == 0 else []
        spec = read_spec(EXPERIMENT, [*overrides, f"seed={seed}", *register])
        command = ["saccade", "run", "experiments/quickstart.yaml", "--set", f"seed={seed}"]
        runs.append(create_run(root / "runs", spec, command))

    def train(number: int) -> int:
        return supervise(
            runs[number],
            resume=False,
            tracking_uri=server,
            experiment="screens",
            package=number == 0,
            quiet=True,
            tags={"sweep": "rates"},
        )

    with ThreadPoolExecutor(len(runs)) as pool:
        assert list(pool.map(train, range(len(runs)))) == [0, 0]
    store = Store(server, root)
    experiment_id = store.open_experiment("screens")
    ids = {run.data.tags["saccade.run_id"]: run for run in store.client.search_runs([experiment_id])}
    return Tracked(server, experiment_id, [ids[run.id] for run in runs], [run.path for run in runs])


@pytest.fixture(scope="session")
def browser(chromium: str) -> Iterator["Browser"]:
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install -e .[test]")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=_CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: "Browser", tracked: Tracked) -> Iterator["Page"]:
    """A page of a browser that has never been here; it must not ask anybody but our server, and no picture may lack."""
    context = browser.new_context(viewport={"width": 1500, "height": 940}, reduced_motion="reduce")
    context.set_default_timeout(_TIMEOUT_MS)
    context.add_init_script(_NO_ASSISTANT)
    page = context.new_page()
    elsewhere = list[str]()
    page.on("request", lambda request: _note(elsewhere, request.url, tracked.server))
    yield page
    context.close()
    assert elsewhere == []


def _note(elsewhere: list[str], url: str, server: str) -> None:
    if url.startswith("http") and not url.startswith(f"{server}/"):
        elsewhere.append(url)


@pytest.fixture
def shoot(page: "Page", tmp_path: Path) -> Callable[[str], Path]:
    """Save what the page shows as a small picture."""

    def save(name: str) -> Path:
        raw = tmp_path / f"{name}.png"
        page.screenshot(path=raw)
        target = (TESTS.parent / SHOTS if SHOTS else tmp_path / "small") / f"{name}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(raw) as image:
            image.convert("RGB").quantize(160, dither=Image.Dither.NONE).save(target, optimize=True)
        return target

    return save
