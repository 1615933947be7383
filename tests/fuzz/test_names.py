"""Names that mean something elsewhere: they work all the way of the data, or are refused before any work."""

import unicodedata
from pathlib import Path

import cv2
import numpy as np
import pytest

from saccade.datasets.check import check_dataset
from saccade.datasets.layout import load_dataset
from saccade.datasets.packed import Settings
from saccade.datasets.packed_plan import plan_pack
from saccade.datasets.packed_write import pack
from saccade.datasets.prepare import prepare
from saccade.datasets.scanpaths import compute_scanpaths
from saccade.errors import SaccadeError, SpecError
from saccade.run_dir import create_run, open_run
from saccade.spec import Spec
from saccade.spec_reader import dump_spec, read_spec

from .mutations import refused

NAMES = (
    *("a b", "#1 100%", "%41%20%s", "-rf", "--help", "'q' \"d\" `x`", "$HOME ${A} ~", "a\\b", "[x] *?", "x.y.avi"),
    *("日本 語 👁", unicodedata.normalize("NFC", "é_ñ"), unicodedata.normalize("NFD", "ö_å"), "n" * 240, "é" * 120),
    *("CON", "a;b|c&d<e>", "a=1,b:2", "runs:", "then\u2028now"),
)


def write_video(path: Path, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = path.parent / "x.avi"  # OpenCV's writers take a % for a number
    writer = cv2.VideoWriter(str(plain), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), 25, (32, 24))
    for number in range(6):
        writer.write(np.full((24, 32, 3), (10 * shade + number) % 256, np.uint8))
    writer.release()
    plain.rename(path)


def test_awkward_names_go_all_the_way(tmp_path: Path) -> None:
    videos, root = tmp_path / "my videos #1 100% é", tmp_path / "data root %41 #2"
    for number, name in enumerate(NAMES):
        write_video(videos / ("-class #1 100% é" if number % 2 else "läuft 'x' [y]") / f"{name}.avi", number)
    out = root / "set #1 100% é"
    prepare([videos], out, test_pattern=["a b", "-rf"], short_side=16, workers=1)
    compute_scanpaths(out, grid_num=3, min_frames=1, device="cpu", workers=1)
    pack(plan_pack(out, Settings("jpeg")), workers=1)
    assert not check_dataset(out).findings.keys() - {
        "videos with fewer usable frames (all but the last) than a clip of 16"
    }
    for store in ("frames", "packed_jpeg"):
        found = load_dataset(root, out.name, split=1, grid_num=3, scanpaths=True, min_frames=4, store=store)
        assert {video.name for video in (*found.train, *found.test)} == set(NAMES)
        assert {video.name for video in found.test} == {"a b", "-rf"}
        for video in found.train:
            shade = (10 * NAMES.index(video.name)) % 256
            assert abs(int(video.read([0]).mean()) - shade) <= 2


def test_another_way_to_compose_an_accent_is_the_same_video(tmp_path: Path) -> None:
    """As when lists are written on Linux and videos unpacked on macOS."""
    for number, name in enumerate(("é1", "é2")):
        write_video(tmp_path / "videos" / "Läuft" / f"{unicodedata.normalize('NFD', name)}.avi", number)
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "classInd.txt").write_text(unicodedata.normalize("NFC", "1 Läuft\n"))
    (lists / "trainlist01.txt").write_text(unicodedata.normalize("NFC", "Läuft/é1.avi 1\n"))
    (lists / "testlist01.txt").write_text(unicodedata.normalize("NFC", "Läuft/é2.avi\n"))
    prepare([tmp_path / "videos"], tmp_path / "data" / "mine", splits=lists, short_side=16, workers=1)
    found = load_dataset(tmp_path / "data", "mine", split=1, grid_num=7, scanpaths=False, min_frames=4)
    assert (len(found.train), len(found.test)) == (1, 1)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("n" * 241, "is longer than 240 bytes (241)"),
        ("é" * 121, "is longer than 240 bytes (242)"),
        ("a\nb", "a control character"),
        ("\x1b[31mred", "a control character"),
        (" a", "has a space at an end"),
        ("x.partial", "taken for unfinished work"),
        ("\udcff", "not UTF-8"),
    ],
)
def test_names_that_are_refused_before_any_work(tmp_path: Path, name: str, said: str) -> None:
    write_video(tmp_path / "videos" / "A" / "b.avi", 1)
    write_video(tmp_path / "videos" / "A" / f"{name}.avi", 2)
    refused("name", lambda: prepare([tmp_path / "videos"], tmp_path / "out", test_pattern=["b"]), said, "rename it")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", [*NAMES[:12], "n" * 200])
def test_names_of_runs_and_paths_of_specs(tmp_path: Path, name: str) -> None:
    if "$" in name:
        refused("name", lambda: read_spec(_spec(tmp_path, name)), "works only in")
        return
    spec = read_spec(_spec(tmp_path, name))
    assert spec.name == name
    assert read_spec(_spec(tmp_path, name), [f"tracking.experiment={name!r}"] if "'" not in name else []).name == name
    runs = tmp_path / f"runs {name.replace('/', '')[:100]}"
    run = create_run(runs, spec, ["saccade", "run", name])
    assert run.path.parent == runs
    assert run.record()["name"] == name
    assert open_run(runs, run.id).path == run.path


def _spec(folder: Path, name: str) -> Path:
    path = folder / f"{name[:200]}.yaml"
    path.write_text(dump_spec(Spec(name=name)), encoding="utf-8")
    return path


def test_names_of_runs_that_are_too_long(tmp_path: Path) -> None:
    path = _spec(tmp_path, "x")
    path.write_text(f"name: {'n' * 500}\n")
    refused("name", lambda: read_spec(path), "must be a text of 1 to 200 characters", "of 500 characters")
    refused("name", lambda: read_spec(tmp_path / ("n" * 500)), "File name too long")


def test_a_message_is_one_line_whatever_it_is_about() -> None:
    said = str(SaccadeError("a\nb\x1b[31m\u2028\udcff: é 日本 👁"))
    assert said == "a\\nb\\x1b[31m\\u2028\\udcff: é 日本 👁"
    assert isinstance(SpecError("x"), SaccadeError)


def test_a_word_without_end_is_cut_and_a_path_is_not() -> None:
    path = "/".join(["folder"] * 80)
    said = str(SaccadeError(f"{path}: no {'9' * 5000} here, nor {'8' * 600}"))
    assert said == f"{path}: no {'9' * 588}...{'9' * 9} here, nor {'8' * 600}"
