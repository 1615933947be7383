"""The MLflow UI on tracked runs, seen in a browser: what somebody who looks for it finds there."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from PIL import Image

from saccade.tracking.store import Store
from saccade.tracking.views import STANDARD_VIEWS, sweep_view, view_link, write_views

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

# MLflow's own use of SQLAlchemy
pytestmark = [pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"), pytest.mark.timeout(900)]

Tracked = Any
Shoot = Callable[[str], Path]
RUNS, SEEDS = STANDARD_VIEWS
WIDTH = 1500
CELL = "name.closest('.ag-header-cell')"
LOADED = "image => image.complete && image.naturalWidth > 0"


def wait_for(locator: "Locator", count: int) -> None:
    locator.nth(count - 1).wait_for()
    assert locator.count() == count


def wait_for_picture(page: "Page", image: "Locator") -> tuple[int, int]:
    """Size of a picture, px, once it is there."""
    image.wait_for()
    page.wait_for_function(LOADED, arg=image.element_handle())
    width, height = image.evaluate("image => [image.naturalWidth, image.naturalHeight]")
    return int(width), int(height)


def click_until_there(file: "Locator", shown: "Locator") -> None:
    """On a busy machine a click can come while MLflow draws its tree anew, and is lost."""
    for second in range(60):
        if shown.is_visible():
            return
        if second % 10 == 9:
            file.click()
        shown.page.wait_for_timeout(1000)


def test_the_table_of_runs(page: "Page", tracked: Tracked, shoot: Shoot) -> None:
    page.goto(view_link(tracked.server, tracked.experiment_id, RUNS))
    page.get_by_role("button", name=RUNS.name).wait_for()
    wait_for(page.get_by_role("link", name="quickstart", exact=True), 2)
    for name in ("test/retrieval_top1", "test/linear_probe_top1", "pretrain/loss"):
        header = page.get_by_test_id(f"sort-header-{name}")
        header.wait_for()
        # The name is seen as a whole.
        assert header.evaluate(f"name => name.getBoundingClientRect().right < {CELL}.getBoundingClientRect().right")
    cells = page.get_by_role("gridcell")
    for run in tracked.runs:
        cells.get_by_text(str(run.data.metrics["pretrain/loss"])[:8]).first.wait_for()
    shoot("runs")


def test_seeds_as_one(page: "Page", tracked: Tracked, shoot: Shoot) -> None:
    page.goto(view_link(tracked.server, tracked.experiment_id, SEEDS))
    page.get_by_role("button", name=SEEDS.name).wait_for()
    (group,) = {run.data.tags["group_hash"] for run in tracked.runs}
    page.get_by_text(f"Group: name: quickstart, group_hash: {group}").wait_for()
    page.get_by_text("Training: mean and range").wait_for()
    # The band about the mean of the two seeds is an area, filled and not quite opaque.
    band = page.locator("svg.main-svg .scatterlayer path.js-fill").first
    band.wait_for(state="attached")
    shoot("seeds")


def test_a_sweep(page: "Page", tracked: Tracked, shoot: Shoot) -> None:
    varied, objective = ["pretrain.learning_rate", "seed"], "test/retrieval_top5"
    view = sweep_view("rates", "tags.sweep = 'rates'", varied, objective, maximise=True)
    link = write_views(Store(tracked.server, Path()), tracked.experiment_id, [view])[view.name]
    page.goto(link)
    page.get_by_role("button", name=view.name).wait_for()
    page.get_by_text("Trials of rates").wait_for()
    for name in (*varied, objective):
        page.locator("svg").get_by_text(name, exact=True).first.wait_for()
    shoot("sweep")


def test_the_page_of_a_run(page: "Page", tracked: Tracked, shoot: Shoot) -> None:
    run, folder = tracked.runs[0], tracked.folders[0]
    page.goto(tracked.link(f"/{run.info.run_id}"))
    page.get_by_text("Show more", exact=True).first.wait_for()
    summary = (folder / "summary.md").read_text()
    (headline,) = (line for line in summary.splitlines() if line.startswith("**"))
    page.get_by_text(headline.split(":** ")[0].strip("*").split(",")[0]).first.wait_for()
    for text in (run.info.run_id, "toy split 1 train", run.data.tags["dataset_digest"][:8], "quickstart encoder v1"):
        page.get_by_text(text).first.wait_for()
        # On the page, and not pushed off it by the pictures of the description.
        box = page.get_by_text(text).first.bounding_box()
        assert box is not None
        assert box["x"] + box["width"] <= WIDTH
    shoot("run")
    page.get_by_text("Show more", exact=True).first.click()
    page.get_by_role("heading", name="How to repeat it").wait_for()
    page.get_by_text(f"saccade runs rerun {folder.name}").wait_for()
    pictures = page.locator("img[src*='get-artifact']")
    wait_for(pictures, summary.count("!["))
    for number in range(pictures.count()):
        pictures.nth(number).scroll_into_view_if_needed()
        wait_for_picture(page, pictures.nth(number))
    page.get_by_role("heading", name="What it found").scroll_into_view_if_needed()
    shoot("description")


def test_artifacts_are_pictures_where_they_are_pictures(page: "Page", tracked: Tracked, shoot: Shoot) -> None:
    run, folder = tracked.runs[0], tracked.folders[0]
    page.goto(tracked.link(f"/{run.info.run_id}/artifacts"))
    epoch = sorted(path.name for path in (folder / "clusters").iterdir())[-1]
    for way in (["figures", "embedding.png"], ["neighbours.png"], ["clusters", epoch, "montage_0.png"]):
        for name in way:
            page.get_by_text(name, exact=True).first.click()
        (path,) = folder.rglob(f"{epoch if 'clusters' in way else 'figures'}/{way[-1]}")
        shown = page.locator(f"img[alt='{path.relative_to(folder).as_posix()}']")
        click_until_there(page.get_by_text(way[-1], exact=True).first, shown)
        with Image.open(path) as image:
            assert wait_for_picture(page, shown) == image.size
        shoot(f"artifact_{path.stem}")
    assert page.get_by_text("spec.yaml", exact=True).is_visible()


def test_two_runs_side_by_side(page: "Page", tracked: Tracked, shoot: Shoot) -> None:
    ids = json.dumps([run.info.run_id for run in tracked.runs])
    experiments = json.dumps([tracked.experiment_id])
    page.goto(f"{tracked.server}/#/compare-runs?runs={quote(ids)}&experiments={quote(experiments)}")
    page.get_by_text("Comparing 2 Runs from 1 Experiment").wait_for()
    for run in tracked.runs:
        page.get_by_role("link", name=run.info.run_id).wait_for()
    row = page.get_by_role("row").filter(has=page.get_by_text("seed", exact=True))
    assert row.get_by_role("cell").all_inner_texts()[-2:] == ["632", "1"]
    page.get_by_text("Show diff only").first.click()
    page.get_by_text("augmentation.blur_probability", exact=True).wait_for(state="detached")
    row.first.scroll_into_view_if_needed()
    shoot("compare")


def test_what_the_run_took_of_the_machine(page: "Page", tracked: Tracked, shoot: Shoot) -> None:
    page.goto(tracked.link(f"/{tracked.runs[0].info.run_id}/system-metrics"))
    for name in ("cpu_utilization_percentage", "trainer_cpu_percentage"):
        page.get_by_text(name, exact=True).wait_for()
    page.locator("svg.main-svg .scatterlayer path.js-line").first.wait_for(state="attached")
    shoot("system")
    page.get_by_text("Add section").scroll_into_view_if_needed()
    page.get_by_text("trainer_memory_megabytes", exact=True).wait_for()
