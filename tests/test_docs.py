"""Pages of docs/ say what the code says."""

import re
from pathlib import Path

from .documented import undocumented
from .test_layers import LAYERS

DOCS = Path(__file__).parent.parent / "docs"


def test_the_layers_of_the_architecture() -> None:
    rows = re.findall(r"^\| (\d) \| (.+) \|$", (DOCS / "architecture.md").read_text(), re.M)
    found = {int(layer): names.split(", ") for layer, names in rows}
    assert found == {layer: names.split() for layer, names in LAYERS.items()}


def test_links_between_pages_lead_somewhere() -> None:
    pages = [*DOCS.glob("*.md"), DOCS.parent / "README.md"]
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())]
    assert len(links) > 20
    assert [(page.name, link) for page, link in links if not (page.parent / link).exists()] == []


def test_a_metric_that_no_page_names_is_found() -> None:
    names = ["test/retrieval_top5", "test/split2/finetune_top1", "finetune/split2/loss", "clusters/0/objective"]
    assert undocumented(names) == set()
    assert undocumented(["test/retrieval_top", "pretrain/lost", "test/split2/retrieval_top1x"]) == {
        *("test/retrieval_top", "pretrain/lost", "test/split2/retrieval_top1x"),
    }
