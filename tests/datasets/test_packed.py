"""Packed stores: what they hold, what becomes of a run that reads one, interruptions."""

import json
import os
import pickle
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from saccade.datasets import packed as packed_module
from saccade.datasets import packed_write
from saccade.datasets.check import check_dataset
from saccade.datasets.clips import EvenClips, Item, VideoClips
from saccade.datasets.loader import make_loader
from saccade.datasets.packed import WORD, Settings, open_store, quick_sum
from saccade.datasets.packed_plan import plan_pack
from saccade.datasets.packed_write import pack
from saccade.errors import DataError

from .packing import DECODED, JPEG, SMALL, SMALL_JPEG, loaded, packed, tree


class TestWhatIsStored:
    @pytest.mark.parametrize("settings", [JPEG, DECODED], ids=["jpeg", "decoded"])
    def test_frames_are_those_of_the_folders_to_the_bit(self, dataset: Path, settings: Settings) -> None:
        report = packed(dataset, settings)
        assert (report.videos, report.frames, report.resumed) == (3, 33, 0)
        store = open_store(dataset / settings.name)
        assert store.names == ("v0", "v1", "v2")
        for video in store.names:
            wanted = tree(dataset, video)
            np.testing.assert_array_equal(store.read(video, range(len(wanted))), wanted)
            for numbers in ([7, 0, 3, 3, 8], [0, 1, 2, 5, 6, 1, 2, 3], [8], [4, 3, 2], [8, 8], []):
                np.testing.assert_array_equal(store.read(video, numbers), wanted[np.array(numbers, int)])

    def test_runs_are_compared_as_far_as_they_go(self, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        packed(dataset, JPEG)
        wanted = tree(dataset, "v1")
        for longest in (1, 2, 5, 12, 64):
            monkeypatch.setattr(packed_module, "_TOGETHER", longest)
            store = open_store(dataset / "packed_jpeg")
            np.testing.assert_array_equal(store.read("v1", range(12)), wanted)
            np.testing.assert_array_equal(store.read("v1", [1, 2, 3, 9, 10, 11]), wanted[[1, 2, 3, 9, 10, 11]])

    def test_the_files_by_hand(self, dataset: Path) -> None:
        packed(dataset, JPEG)
        data = (dataset / "packed_jpeg" / "frames.bin").read_bytes()
        with np.load(dataset / "packed_jpeg" / "index.npz") as index:
            starts, lengths, first = index["starts"], index["lengths"], index["first"]
            assert first.tolist() == [0, 12, 24, 33]
            assert (starts % 8 == 0).all()
            assert json.loads(index["names"].tobytes()) == ["v0", "v1", "v2"]
            path = sorted((dataset / "jpegs_256" / "v1").iterdir())[5]
            at = int(starts[17])
            assert data[at : at + int(lengths[17])] == path.read_bytes()
            assert index["shapes"].tolist() == [[48, 64]] * 3
            files = sorted((dataset / "jpegs_256" / "v2").iterdir())
            assert index["sizes"][2].tolist() == [file.stat().st_size for file in files] + [-1] * 7
        assert len(data) == sum(-(-int(length) // 8) * 8 for length in lengths)

    def test_smaller_frames(self, dataset: Path) -> None:
        packed(dataset, SMALL)
        packed(dataset, SMALL_JPEG)
        pixels, files = open_store(dataset / SMALL.name), open_store(dataset / SMALL_JPEG.name)
        wanted = [cv2.resize(frame, (32, 24), interpolation=cv2.INTER_AREA) for frame in tree(dataset, "v0")]
        np.testing.assert_array_equal(pixels.read("v0", range(12)), wanted)
        # As `saccade data prepare` would have written them.
        for frame, small in zip(files.read("v0", range(12)), wanted, strict=True):
            jpeg = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
            np.testing.assert_array_equal(frame, cv2.imdecode(jpeg, cv2.IMREAD_COLOR)[..., ::-1])
        assert files.bytes < pixels.bytes / 2

    def test_frames_are_never_made_larger(self, dataset: Path) -> None:
        packed(dataset, Settings("jpeg", 48, 90))
        np.testing.assert_array_equal(open_store(dataset / "packed_jpeg_48").read("v1", range(12)), tree(dataset, "v1"))

    def test_the_quick_sum_is_the_sum_of_the_words(self) -> None:
        data = np.random.default_rng(0).integers(0, 256, 80, dtype=np.uint8)
        words = [int.from_bytes(data[at : at + 8].tobytes(), "little") for at in range(0, 80, 8)]
        assert quick_sum(data.view(WORD)) == sum(words) % 2**64


class TestCost:
    def test_decoded_frames_are_counted_exactly(self, dataset: Path) -> None:
        plan = plan_pack(dataset, DECODED)
        assert plan.bytes == 33 * 48 * 64 * 3
        assert packed(dataset, DECODED).bytes == plan.bytes
        assert plan_pack(dataset, SMALL).bytes == 33 * 24 * 32 * 3
        assert "33 frames, 297 KiB (their JPEG files: about " in str(plan)

    @pytest.mark.parametrize("settings", [JPEG, SMALL_JPEG], ids=lambda settings: settings.name)
    def test_jpeg_files_are_estimated(self, dataset: Path, settings: Settings) -> None:
        plan = plan_pack(dataset, settings)
        assert packed(dataset, settings).bytes == pytest.approx(plan.bytes, rel=0.1)
        assert "33 frames, about " in str(plan)

    def test_what_does_not_fit_is_not_begun(self, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        plan = plan_pack(dataset, DECODED)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=plan.bytes - 1))
        with pytest.raises(DataError, match=r"would take 297 KiB more, but the disk has 297 KiB free; make room"):
            pack(plan)
        assert not (dataset / "packed_decoded").exists()


class TestInterruptions:
    @pytest.mark.parametrize("settings", [JPEG, SMALL], ids=lambda settings: settings.name)
    @pytest.mark.parametrize("after", [0, 5, 12, 20, 32])
    def test_stopped_and_called_again_it_writes_the_same(
        self, dataset: Path, monkeypatch: pytest.MonkeyPatch, after: int, settings: Settings
    ) -> None:
        packed(dataset, settings)
        whole = {path.name: path.read_bytes() for path in (dataset / settings.name).iterdir()}
        shutil.rmtree(dataset / settings.name)
        plan, real = plan_pack(dataset, settings), packed_write.stored_frame
        stored: Counter[str] = Counter()

        def dying(path: Path, *rest: object) -> bytes:
            if sum(stored.values()) == after:
                raise KeyboardInterrupt
            stored[path.parent.name] += 1
            return real(path, *rest)  # type: ignore[arg-type]

        monkeypatch.setattr(packed_write, "_CHUNK_FRAMES", 4)
        monkeypatch.setattr(packed_write, "stored_frame", dying)
        with pytest.raises(KeyboardInterrupt):
            pack(plan, workers=1)
        assert not (dataset / settings.name).exists()

        def counting(path: Path, *rest: object) -> bytes:
            stored[path.parent.name] += 1
            return real(path, *rest)  # type: ignore[arg-type]

        stored.clear()
        monkeypatch.setattr(packed_write, "stored_frame", counting)
        report = pack(plan, workers=1)
        # A video is on disk once its last chunk of 4 is written, which is before the chunk after the next is asked for.
        assert report.resumed <= after // 12
        assert stored == {
            name: count for name, count in {"v0": 12, "v1": 12, "v2": 9}.items() if name >= f"v{report.resumed}"
        }
        assert {path.name: path.read_bytes() for path in (dataset / settings.name).iterdir()} == whole
        assert not (dataset / f"{settings.name}.partial").exists()

    @pytest.mark.parametrize(
        "spoil", ["torn line", "lost frames", "too many frames", "other settings", "changed video"]
    )
    def test_what_an_earlier_call_left_is_used_as_far_as_it_is_good(self, dataset: Path, spoil: str) -> None:
        packed(dataset, SMALL_JPEG)
        whole = {path.name: path.read_bytes() for path in (dataset / SMALL_JPEG.name).iterdir()}
        shutil.rmtree(dataset / SMALL_JPEG.name)
        half = dataset / f"{SMALL_JPEG.name}.partial"
        last = dataset / "jpegs_256" / "v2" / "000009.jpg"
        content = sorted((dataset / "jpegs_256" / "v2").iterdir())[-1].read_bytes()
        last = sorted((dataset / "jpegs_256" / "v2").iterdir())[-1]
        last.write_bytes(b"broken")
        with pytest.raises(DataError, match=rf"{last.name}: this frame is cut off or no JPEG"):
            packed(dataset, SMALL_JPEG)
        last.write_bytes(content)
        records, frames = half / "videos.jsonl", half / "frames.bin"
        expected = 2
        if spoil == "torn line":
            records.write_bytes(records.read_bytes()[:-30])
            expected = 1
        elif spoil == "lost frames":
            os.truncate(frames, 10)
            expected = 0
        elif spoil == "too many frames":
            with frames.open("ab") as file:
                file.write(b"rest of a video that was not finished")
        elif spoil == "other settings":
            records.write_bytes(records.read_bytes().replace(b'"quality": 90', b'"quality": 91', 1))
            expected = 0
        else:
            # The second video's frames are others now: it and what follows is packed anew.
            first = sorted((dataset / "jpegs_256" / "v1").iterdir())[0]
            first.write_bytes(first.read_bytes() + b"\0\0")
            expected = 1
        report = packed(dataset, SMALL_JPEG)
        assert report.resumed == expected
        found = {path.name: path.read_bytes() for path in (dataset / SMALL_JPEG.name).iterdir()}
        if spoil != "changed video":
            assert found == whole
        assert found["frames.bin"] == whole["frames.bin"]

    def test_workers_do_not_change_a_byte(self, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(packed_write, "_CHUNK_FRAMES", 2)
        files = []
        for workers in (1, 3):
            packed(dataset, JPEG, workers)
            files.append({path.name: path.read_bytes() for path in (dataset / "packed_jpeg").iterdir()})
            shutil.rmtree(dataset / "packed_jpeg")
        assert files[0] == files[1]

    def test_called_again_it_has_nothing_to_do_or_says_why_not(self, dataset: Path) -> None:
        packed(dataset, JPEG)
        before = (dataset / "packed_jpeg" / "frames.bin").stat().st_mtime_ns
        assert packed(dataset, JPEG).resumed == 3
        assert (dataset / "packed_jpeg" / "frames.bin").stat().st_mtime_ns == before
        shutil.rmtree(dataset / "jpegs_256" / "v1")
        with pytest.raises(DataError, match=r"packed_jpeg: is there already, packed from other frames .* --overwrite"):
            packed(dataset, JPEG)
        pack(plan_pack(dataset, JPEG), overwrite=True)
        assert open_store(dataset / "packed_jpeg").names == ("v0", "v2")

    def test_two_at_a_time_are_refused(self, dataset: Path) -> None:
        with (
            packed_write._alone(dataset / "packed_jpeg.partial"),
            pytest.raises(DataError, match=r"partial: is being written by another `saccade data pack`"),
        ):
            packed(dataset, JPEG)

    def test_frames_of_two_sizes(self, dataset: Path) -> None:
        path = sorted((dataset / "jpegs_256" / "v1").iterdir())[4]
        cv2.imwrite(str(path), np.zeros((40, 64, 3), np.uint8))
        with pytest.raises(DataError, match=rf"{path.name}: this frame comes to 64 x 40 px, but the first .* 64 x 48"):
            packed(dataset, DECODED)


OWN = """
name: packed
data: {{root: {root}, dataset: toy}}
prototypes: {{num_clusters: []}}
pretrain: {{epochs: 1, batch_size: 4, schedule: cosine}}
evaluation: {{retrieval: {{enabled: false}}}}
tracking: {{log_every_steps: 1}}
"""
SPEC = (Path(__file__).parent.parent / "small_spec.yaml").read_text() + OWN


class TestUse:
    def test_a_run_sees_the_same_content_under_the_same_digest(self, toy: Path) -> None:
        for settings in (JPEG, DECODED, SMALL, SMALL_JPEG):
            packed(toy, settings)
        frames = loaded(toy)
        digests = {name: loaded(toy, name).identity for name in ("packed_jpeg", "packed_decoded")}
        assert set(digests.values()) == {frames.identity}
        assert loaded(toy, "packed_jpeg") == frames.__class__(
            **{name: getattr(loaded(toy, "packed_jpeg"), name) for name in frames.__slots__}
        )
        # Other pixels are other content: smaller ones, and those that were compressed once more.
        others = {frames.digest, loaded(toy, SMALL.name).digest, loaded(toy, SMALL_JPEG.name).digest}
        assert len(others) == 3
        for one, other in zip(frames.train, loaded(toy, "packed_decoded").train, strict=True):
            assert (one.name, one.label, one.frames, one.fixations) == (
                other.name,
                other.label,
                other.frames,
                other.fixations,
            )

    def test_the_folders_of_frames_may_go(self, toy: Path, tmp_path: Path) -> None:
        packed(toy, JPEG)
        shutil.copytree(toy, tmp_path / "toy", ignore=shutil.ignore_patterns("jpegs_256"))
        alone, frames = loaded(tmp_path / "toy", "packed_jpeg"), loaded(toy)
        assert alone.identity == frames.identity
        np.testing.assert_array_equal(alone.test[0].read([2, 9]), frames.test[0].read([2, 9]))
        report = check_dataset(tmp_path / "toy")
        assert report.findings == check_dataset(toy).findings
        assert not any("pack" in kind for kind in report.findings)
        assert any(f"digest {frames.digest}" in fact for fact in report.facts)

    @pytest.mark.usefixtures("no_pictures")
    def test_training_from_a_store_is_training_from_the_folders(self, toy: Path, make_run: Callable[..., Path]) -> None:
        from saccade.checkpoint import load_checkpoint
        from saccade.runner import main

        packed(toy, JPEG)
        packed(toy, DECODED)
        states = []
        for store in ("frames", "packed_jpeg", "packed_decoded"):
            run = make_run(SPEC.format(root=toy.parent), f"data.store={store}")
            assert main([str(run)]) == 0
            lines = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
            metrics = [line["values"] for line in lines if line["kind"] == "metrics"]
            kept = [{k: v for k, v in values.items() if not k.startswith(("perf/", "system/"))} for values in metrics]
            states.append((load_checkpoint(run / "checkpoints" / "last.pt")["learner"], kept))
            shutil.rmtree(run)
        for state, metrics in states[1:]:
            assert metrics == states[0][1]
            torch.testing.assert_close(state, states[0][0], atol=0, rtol=0)

    @pytest.mark.parametrize("workers", [0, 2])
    def test_workers_read_it_too(self, toy: Path, workers: int) -> None:
        packed(toy, JPEG)
        chooser = EvenClips(clip_frames=4, num_clips=3, crop=40)
        items = [[Item(0, 1), Item(0, 0)], [Item(0, 5)]]
        one, other = (VideoClips(loaded(toy, store).test, chooser) for store in ("frames", "packed_jpeg"))
        for batch, samples in zip(items, make_loader(other, items, workers), strict=True):
            for item, sample in zip(batch, samples, strict=True):
                assert torch.equal(sample.frames, one[item].frames)
                assert sample.frames.stride() == one[item].frames.stride()

    def test_a_store_goes_to_other_processes_by_its_name(self, dataset: Path) -> None:
        packed(dataset, DECODED)
        store = open_store(dataset / "packed_decoded")
        store.read("v0", [0])
        sent = pickle.dumps(store)
        assert len(sent) < 500
        np.testing.assert_array_equal(pickle.loads(sent).read("v1", [3]), store.read("v1", [3]))
