"""Pages of docs/ say what the code says, and every command in them works.

A block of commands is read by bash, in a scratch folder where everything is small (`newcomer`); the calls that it makes
are then carried out, one after the other, with the files that those before have made. What cannot be is in `LOOKED_UP`.
"""

import configparser
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from saccade import __version__

from . import children
from .documented import DOCS, PAGES, REPOSITORY, blocks, inline_commands, layer_picture, prose, undocumented
from .newcomer import Newcomer, parse
from .newcomer_files import have_datasets, settle
from .recorder import Call, record
from .test_layers import LAYERS

# MLflow's own use of SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")

LOOKED_UP = {
    "saccade bench": "minutes on an idle machine, some on a GPU; tests/bench runs each on little",
    "saccade ui": "serves until Ctrl-C; tests/tracking/test_ui.py opens it",
    "saccade server": "serves until Ctrl-C; tests/tracking/test_server.py and tests/docker talk to one",
    "torchrun": "two machines; tests/distributed has two torchruns on one",
    "docker": "no Docker engine; tests/docker starts the same services as processes",
    "pip": "installs; the extras are looked up",
    "pytest": "tests that run as tests",
    "python": "needs the server of docker/compose.yaml; tests/docker/test_stack.py makes users so",
    "optuna-dashboard": "an extra that serves until Ctrl-C",
}
"""Commands that are not carried out here, and why: their words, and what those name, are looked up."""
TELLS_OF_THE_MACHINE = ["saccade doctor"]
"""Their exit code may be 1."""
PREPARE = ["README.md", "data/README.md"]
"""Pages whose commands make the datasets; for others they are there."""
ANOTHER_WAY = ["ucf101_jpegs_256.zip.001"]
"""Words of commands that make the same datasets once more."""
PROGRAMS = [word for word in LOOKED_UP if " " not in word] + ["saccade", "make"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """A clone in small, with videos and downloads."""
    return settle(tmp_path_factory.mktemp("clone"), empty_store)


@pytest.fixture(scope="module")
def done() -> set[str]:
    """Commands that have been carried out; one that stands on several pages is, once."""
    return set()


@pytest.fixture
def newcomer(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    own_signals: None,
    no_pictures: None,
) -> Newcomer:
    children.adopt(monkeypatch)
    return Newcomer(folder, monkeypatch, capfd.readouterr)


COMMAND_PAGES = [page for page in PAGES if blocks(page, "sh")]


def calls(page: str, newcomer: Newcomer) -> list[Call]:
    """What the blocks of a page call, typed into one shell."""
    (newcomer.folder / "docker/.env").unlink(missing_ok=True)
    script = "".join(block.text for block in blocks(page, "sh"))
    return record(script, newcomer.folder, PROGRAMS, newcomer.environment())


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", COMMAND_PAGES)
def test_every_command_works(page: str, newcomer: Newcomer, done: set[str]) -> None:
    have_datasets(newcomer.folder, prepared=page not in PREPARE)
    for call in [each for typed in calls(page, newcomer) for each in newcomer.expand(typed)]:
        if str(call).startswith(tuple(LOOKED_UP)):
            LOOK_UP[call.program](call)
            continue
        if str(call) in done and "RUN" not in call.words:
            continue
        if any(word in call.words for word in ANOTHER_WAY):
            have_datasets(newcomer.folder, prepared=False)
        code, out, err = newcomer.saccade(call)
        wanted = (0, 1) if str(call).startswith(tuple(TELLS_OF_THE_MACHINE)) else (0,)
        assert code in wanted, f"{page}: {call}: exit code {code}\n{out}\n{err}"
        done.add(str(call))


def _look_up_ours(call: Call) -> None:
    parse(call.words)


def _look_up_docker(call: Call) -> None:
    services = yaml.safe_load((REPOSITORY / "docker/compose.yaml").read_text())["services"]
    compose, command, *rest = call.words
    assert (compose, call.folder.name) == ("compose", "docker")
    assert command in ("up", "ps", "run", "stop", "start", "build", "exec")
    while rest and rest[0].startswith("--"):
        rest = rest[2 if rest[0] == "--user" else 1 :]
    assert not rest or rest[0] in services
    if rest and rest[0] == "worker" and len(rest) > 1:
        parse(rest[1:])  # the image's entry is `saccade`


def _look_up_pip(call: Call) -> None:
    extras = configparser.ConfigParser()
    extras.read(REPOSITORY / "setup.cfg")
    *options, wanted = call.words
    assert options in (["install", "-c", "constraints.txt", "-e"], ["uninstall"])
    (names,) = re.findall(r"^\.\[(.+)\]$", wanted)
    assert set(names.split(",")) <= extras["options.extras_require"].keys()


def _look_up_python(call: Call) -> None:
    option, code = call.words
    assert option == "-c"
    compile(code, "documents", "exec")


def _look_up_torchrun(call: Call) -> None:
    from torch.distributed.run import get_args_parser

    given = get_args_parser().parse_args(call.words)
    assert (given.module, given.training_script) == (True, "saccade.runner")


LOOK_UP: dict[str, Callable[[Call], None]] = {
    "saccade": _look_up_ours,
    "docker": _look_up_docker,
    "pip": _look_up_pip,
    "python": _look_up_python,
    "torchrun": _look_up_torchrun,
    "pytest": lambda call: _assert_there(call.words[0]),
    "optuna-dashboard": lambda call: _assert_same(call.words, ["sqlite:///runs/sweeps.db"]),
}


def _assert_there(path: str) -> None:
    assert (REPOSITORY / path).exists()


def _assert_same(found: list[str], wanted: list[str]) -> None:
    assert found == wanted


def test_what_is_only_looked_up_is_written_somewhere(newcomer: Newcomer) -> None:
    found = [str(call) for page in COMMAND_PAGES for call in calls(page, newcomer)]
    assert len(found) > 80
    assert [words for words in LOOKED_UP if not any(each.startswith(words) for each in found)] == []


def test_commands_in_running_text_have_options_that_exist() -> None:
    """They may be named without what else they take."""
    found = {command for page in PAGES for command in inline_commands(page)} - {"saccade --install-completion"}
    assert len(found) > 40
    for command in sorted(found):
        try:
            parse(command.replace("bench NAME", "bench").replace(" N", " 10000").split()[1:])
        except typer.Exit:  # --help, --install-completion
            continue
        except typer.TyperException as error:
            if not re.search("Missing argument|requires an argument", error.format_message()):
                pytest.fail(f"{command}: {error.format_message()}")


def test_a_command_that_does_not_exist_is_found() -> None:
    for wrong in ("run --nope", "runs lost", "data prepare", "bench speed", "plan a.yaml --json=x"):
        with pytest.raises(typer.TyperException):
            parse(wrong.split())


@pytest.mark.parametrize("page", PAGES)
def test_commands_stand_in_blocks_that_are_run(page: str) -> None:
    """A command in another kind of block, or one that is only indented, would escape."""
    others = [block for block in blocks(page) if block.language != "sh"]
    assert [str(block) for block in others if block.language not in ("text", "yaml", "python")] == []
    lines = prose(page).splitlines()
    assert [line for line in lines if re.match(r"(    |\t)(\$ )?(saccade|make|export|docker) ", line)] == []


def test_the_code_in_the_pages(newcomer: Newcomer) -> None:
    import torch

    (block,) = [block for page in PAGES for block in blocks(page, "python")]
    names: dict[str, Any] = {"clips": torch.zeros(2, 3, 8, 16, 16)}
    newcomer.patch.chdir(newcomer.folder)
    exec(newcomer.meant(block.text), names)
    assert names["features"].shape == (2, 32)


def test_the_yaml_in_the_pages(tmp_path: Path) -> None:
    from saccade.spec_reader import parse_spec

    texts = [block.text for page in PAGES for block in blocks(page, "yaml")]
    assert len(texts) == 3
    for text in texts:
        content = yaml.safe_load(text)
        if content.keys() - {"experiment", "storage"} == content.keys():
            parse_spec(text, "page.yaml")


def test_the_picture_of_the_layers() -> None:
    picture = layer_picture(LAYERS)
    assert picture in (DOCS / "architecture.md").read_text(), f"this has to be in it:\n{picture}"


def test_links_between_pages_lead_somewhere() -> None:
    pages = [REPOSITORY / page for page in PAGES]
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())]
    assert len(links) > 60
    assert [(page.name, link) for page, link in links if not (page.parent / link).exists()] == []


def test_how_to_cite_it() -> None:
    """The fields that CFF 1.2.0 requires, and the same version, licence and paper as elsewhere."""
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert citation.keys() >= {"cff-version", "message", "title", "authors"}
    assert citation["version"] == __version__
    assert (REPOSITORY / "LICENSE").read_text().startswith(f"{citation['license']} License\n")
    paper = citation["references"][0]
    assert f"https://doi.org/{paper['doi']}" in (REPOSITORY / "README.md").read_text()
    assert all(author.keys() == {"family-names", "given-names"} for author in paper["authors"])


def test_every_page_is_in_the_index() -> None:
    index = (DOCS / "README.md").read_text()
    assert [page for page in DOCS.glob("*.md") if page.name != "README.md" and f"({page.name})" not in index] == []


def test_a_metric_that_no_page_names_is_found() -> None:
    names = ["test/retrieval_top5", "test/split2/finetune_top1", "finetune/split2/loss", "clusters/0/objective"]
    assert undocumented(names) == set()
    assert undocumented(["test/retrieval_top", "pretrain/lost", "test/split2/retrieval_top1x"]) == {
        *("test/retrieval_top", "pretrain/lost", "test/split2/retrieval_top1x"),
    }
