"""Packed stores that were damaged, what a check says of them, and the commands."""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from saccade.datasets import packed_plan
from saccade.datasets.check import check_dataset
from saccade.datasets.packed import Settings, open_store
from saccade.datasets.packed_plan import plan_pack
from saccade.errors import DataError

from .packing import DECODED, JPEG, SMALL, SMALL_JPEG, loaded, packed, tree


class TestDamage:
    @pytest.mark.parametrize("settings", [JPEG, DECODED], ids=["jpeg", "decoded"])
    @pytest.mark.parametrize("bit", [0, 7])
    def test_a_bit_that_flipped(self, dataset: Path, settings: Settings, bit: int) -> None:
        packed(dataset, settings)
        path = dataset / settings.name / "frames.bin"
        with np.load(path.with_name("index.npz")) as index:
            at = int(index["starts"][15]) + int(index["lengths"][15]) // 2
        data = bytearray(path.read_bytes())
        data[at] ^= 1 << bit
        path.write_bytes(data)
        store = open_store(path.parent)
        with pytest.raises(DataError) as caught:
            store.read("v1", [2, 3])
        said = f"{path}: frame 3 of v1 is damaged: its checksum differs; remove the folder and run"
        assert str(caught.value).startswith(said)
        assert "\n" not in str(caught.value)
        np.testing.assert_array_equal(store.read("v1", [2, 4]), tree(dataset, "v1")[[2, 4]])
        (dataset / "split").mkdir()
        assert "packed frames that are damaged" not in check_dataset(dataset).findings  # neither first nor last
        found = check_dataset(dataset, deep=True).findings["packed frames that are damaged"]
        assert found == [f"{settings.name}: frame 3 of v1: its CRC-32 differs"]

    def test_files_that_do_not_belong_together(self, dataset: Path) -> None:
        packed(dataset, DECODED)
        path = dataset / "packed_decoded" / "frames.bin"
        os.truncate(path, path.stat().st_size - 100)
        with pytest.raises(DataError, match=rf"{path}: 304028 bytes, its index says 304128; remove the folder"):
            open_store(path.parent)
        path.unlink()
        with pytest.raises(DataError, match=rf"{path}: cannot be read: No such file"):
            open_store(path.parent)

    def test_an_index_that_is_damaged(self, dataset: Path) -> None:
        packed(dataset, JPEG)
        path = dataset / "packed_jpeg" / "index.npz"
        whole, rng = path.read_bytes(), np.random.default_rng(0)
        for trial in range(20):
            data = bytearray(whole)
            if trial % 2:
                data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
            else:
                del data[int(rng.integers(len(data))) :]
            path.write_bytes(data)
            with pytest.raises(DataError, match=rf"^{path}: is damaged: its checksum is not that of .*; remove .*$"):
                open_store(path.parent)
        said = (path.parent / "index.npz.sha256").read_text()
        assert said == f"{hashlib.sha256(whole).hexdigest()}  index.npz\n"

    def test_a_store_that_is_not_there(self, dataset: Path) -> None:
        packed(dataset, JPEG)
        (dataset / "packed_decoded_24.partial").mkdir()
        with pytest.raises(DataError, match=r"make it with .*; data.store may be frames or packed_jpeg here"):
            open_store(dataset / "packed_decoded")
        with pytest.raises(DataError, match=r"packed_decoded_24: no such packed store \(it is half written, run"):
            open_store(dataset / "packed_decoded_24")

    def test_a_store_of_a_version_to_come(self, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with monkeypatch.context() as patch:
            patch.setattr("saccade.datasets.packed._VERSION", 2)
            packed(dataset, JPEG)
        with pytest.raises(DataError, match=r"index.npz: version 2 of packed stores, this program reads 1"):
            open_store(dataset / "packed_jpeg")

    def test_no_frames(self, tmp_path: Path, dataset: Path) -> None:
        with pytest.raises(DataError, match=r"jpegs_256: the folder of frames cannot be read"):
            plan_pack(tmp_path / "none", JPEG)
        (dataset / "jpegs_256" / "v3").mkdir()
        with pytest.raises(DataError, match=r"v3 holds no .jpg; see `saccade data check"):
            plan_pack(dataset, JPEG)


class TestCheck:
    def test_stores_against_folders(self, toy: Path, tmp_path: Path) -> None:
        copy = tmp_path / "toy"
        shutil.copytree(toy, copy, ignore=shutil.ignore_patterns("packed_*"))
        packed(copy, JPEG)
        packed(copy, SMALL)
        report = check_dataset(copy)
        assert not any("packed" in kind for kind in report.findings)
        small = loaded(copy, SMALL.name).digest
        assert f"{SMALL.name}, split 1: digest {small}" in report.facts
        assert f"packed_jpeg, split 1: digest {loaded(copy).digest}" in report.facts
        names = sorted(path.name for path in (copy / "jpegs_256").iterdir())
        shutil.rmtree(copy / "jpegs_256" / names[0])
        shutil.copytree(copy / "jpegs_256" / names[1], copy / "jpegs_256" / "v_new")
        frame = sorted((copy / "jpegs_256" / names[2]).iterdir())[0]
        frame.write_bytes(frame.read_bytes() + b"\0")
        (copy / "packed_decoded.partial").mkdir()
        shutil.rmtree(copy / SMALL.name)
        findings = check_dataset(copy).findings
        assert findings["packed videos unlike their folders of frames"] == [
            "packed_jpeg: v_new is not in it",
            f"packed_jpeg: {names[0]} has no folder",
            f"packed_jpeg: {names[2]} was packed from other frames",
        ]
        assert findings["packed stores half written"] == ["packed_decoded.partial"]
        os.truncate(copy / "packed_jpeg" / "frames.bin", 8)
        (said,) = check_dataset(copy).findings["packed stores that cannot be used"]
        assert said.startswith(f"{copy / 'packed_jpeg' / 'frames.bin'}: 8 bytes")


class TestCommand:
    def test_it_says_what_it_costs_and_wants_to_be_told(
        self, dataset: Path, saccade: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: False))
        code, out, err = saccade("data", "pack", str(dataset), "--as", "decoded")
        assert code == 2
        assert "3 videos, 33 frames, 297 KiB (their JPEG files: about" in out
        assert err.splitlines()[-1] == (
            "error: nobody is there to ask whether to spend that disk space; give --yes to say so beforehand"
        )
        assert not list(dataset.glob("packed_*"))
        code, out, _ = saccade("data", "pack", str(dataset), "--as", "decoded", "--yes", "--workers", "1")
        assert code == 0
        assert out.splitlines()[-1].endswith("use it with data.store: packed_decoded")
        np.testing.assert_array_equal(open_store(dataset / "packed_decoded").read("v1", range(12)), tree(dataset, "v1"))

    @pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 1), ("", 1)])
    def test_a_person_is_asked(
        self,
        dataset: Path,
        saccade: Callable[..., tuple[int, str, str]],
        monkeypatch: pytest.MonkeyPatch,
        answer: str,
        code: int,
    ) -> None:
        monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
        monkeypatch.setattr("typer.confirm", lambda question: answer == "y")
        assert saccade("data", "pack", str(dataset), "--short-side", "24")[0] == code
        assert (dataset / "packed_jpeg_24").exists() == (code == 0)

    def test_settings_name_their_store(self) -> None:
        assert [s.name for s in (JPEG, DECODED, SMALL_JPEG)] == ["packed_jpeg", "packed_decoded", "packed_jpeg_24"]
        assert packed_plan.PackPlan(Path("data/x"), SMALL, (), 0, 0).target == Path("data/x/packed_decoded_24")
