"""`saccade bench end-to-end`: clips a second from JPEG files to the updated encoder, beside a release-style run.

Both sides read the same made videos and see the same crops; the other side's pipeline is that of `release_clips`, its
step that of `release_step`. On a CPU in CPU time of one thread and one video a step, on a GPU in time of the clock with
the paper's batch and as many decoding processes as there are cores.
"""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from torch.utils.data import DataLoader, Dataset

from saccade import builders
from saccade.bench.made_videos import GAZE_ROWS, write_rows, write_videos
from saccade.bench.measure import Report, Row, compare, one_thread, own_seconds
from saccade.bench.release_clips import release_sample
from saccade.bench.step import BANK, Batch, Steps, paper_spec
from saccade.datasets.clips import Item, TrainingViews, VideoClips, epoch_batches
from saccade.datasets.layout import Video
from saccade.datasets.loader import make_loader
from saccade.datasets.parallel import keep_freed_memory
from saccade.datasets.render import render
from saccade.engine import nvjpeg
from saccade.engine.device import Machine, pick_machine, send
from saccade.spec import DataSpec, Spec

__all__ = ["bench_end_to_end"]

_SEED = 632
_THEIRS, _OURS, _OURS_NVJPEG = "release style", "as here", "as here, nvJPEG"


class _ReleaseClips(Dataset[Batch]):
    """A video's clips, made as the release makes them."""

    def __init__(self, videos: list[Video], chooser: TrainingViews, size: int) -> None:
        self.videos, self.chooser, self.size = videos, chooser, size

    def __getitem__(self, item: Item) -> Batch:
        clips, masks = release_sample(self.videos[item.video], self.chooser, item, self.size)
        return Batch(clips, masks, torch.tensor([item.video]))


def _joined(batches: list[Batch]) -> Batch:
    clips, masks, videos = zip(*((b.clips, b.masks, b.videos) for b in batches), strict=True)
    return Batch(torch.cat(clips), torch.cat(masks), torch.cat(videos))


class _Runs:
    """Both sides' training from files, a few steps at a time.

    Attributes:
        waited: Time until a batch is there as a part of all, of each call, by the side.
    """

    def __init__(
        self, spec: Spec, machine: Machine, *, videos: int, uncounted: int, counted: int, workers: int
    ) -> None:
        self.spec, self.machine, self.batch, self.workers = spec, machine, videos, workers
        self.uncounted, self.counted = uncounted, counted
        self.data = list(builders.build_dataset(spec).train)
        self.views = builders.build_training_views(spec)
        self.steps = Steps(spec, machine, BANK)
        self.waited: dict[str, list[float]] = {}

    def _items(self) -> list[list[Item]]:
        steps = self.uncounted + self.counted
        return list(epoch_batches(len(self.data), self.batch, seed=_SEED, first_step=0, last_step=steps))

    def _their_batches(self) -> Iterator[Batch]:
        clips = _ReleaseClips(self.data, self.views, self.spec.clip.size)
        loader = DataLoader(clips, batch_sampler=self._items(), num_workers=self.workers, collate_fn=_joined)
        for batch in loader:
            yield Batch(*(part.to(self.machine.device) for part in (batch.clips, batch.masks, batch.videos)))

    def _our_batches(self, machine: Machine) -> Iterator[Batch]:
        device = machine.device
        for samples in make_loader(
            VideoClips(self.data, self.views), iter(self._items()), self.workers, machine=machine
        ):
            clips, masks = render(samples, size=self.spec.clip.size, device=device)
            assert masks is not None
            yield Batch(clips, masks, send(torch.tensor([sample.index for sample in samples]), device))

    def theirs(self) -> float:
        """Seconds of a few steps in the release's style."""
        return self._train(_THEIRS, self._their_batches(), self.steps.their_step)

    def ours(self) -> float:
        """Seconds of a few steps as a run does them."""
        return self._train(_OURS, self._our_batches(self.machine), self.steps.our_step)

    def ours_decoded_there(self) -> float:
        """The same, with frames that the GPU decodes."""
        batches = self._our_batches(replace(self.machine, nvjpeg=True))
        return self._train(_OURS_NVJPEG, batches, self.steps.our_step)

    def _train(self, side: str, batches: Iterator[Batch], step: Callable[[Batch], object]) -> float:
        waited, begun = 0.0, self._time()
        for number in range(self.uncounted + self.counted):
            if number == self.uncounted:  # The decoders have started and are ahead.
                waited, begun = 0.0, self._time()
            before = self._now()
            batch = next(batches)
            waited += self._now() - before
            step(batch)
        taken = self._time() - begun
        self.waited.setdefault(side, []).append(waited / taken)
        return taken

    def _now(self) -> float:
        return time.perf_counter() if self.machine.device.type == "cuda" else time.process_time()

    def _time(self) -> float:
        """Now, with all done that was asked of a GPU."""
        if self.machine.device.type == "cuda":
            torch.cuda.synchronize()
        return self._now()


def bench_end_to_end(device: str = "auto", *, rounds: int = 3) -> Report:
    """Measure R3D's pre-training from files to update.

    Args:
        device: "cpu", "cuda" or "auto".
        rounds: Of which the median counts.
    """
    machine = pick_machine(device, threads=1, convolutions="auto", compiled="auto")
    on_gpu = machine.device.type == "cuda"
    spec, cores = paper_spec("r3d"), len(os.sched_getaffinity(0))
    videos, uncounted, counted, workers = (spec.pretrain.batch_size, 20, 100, cores) if on_gpu else (1, 0, 1, 0)
    settings = {"on": machine.description, "videos a step": videos, "steps a round": counted, "decoders": workers}
    report = Report("end-to-end", {**settings, "rounds": rounds})
    keep_freed_memory()  # as loaders do
    with TemporaryDirectory(prefix="saccade-bench-") as root, one_thread():
        folder = Path(root) / "made"
        write_videos(folder, videos=2 * videos, frames=100, height=256, width=340, seed=_SEED)
        write_rows(folder, GAZE_ROWS)
        spec = spec.model_copy(update={"data": DataSpec(root=root, dataset="made")})
        runs = _Runs(spec, machine, videos=videos, uncounted=uncounted, counted=counted, workers=workers)
        sides = {_THEIRS: runs.theirs, _OURS: runs.ours}
        if on_gpu:
            missing = nvjpeg.why_not()
            report.settings["nvJPEG"] = missing or "measured"
            if not missing:
                sides[_OURS_NVJPEG] = runs.ours_decoded_there
        report.rows = _measured(runs, sides, rounds)
    return report


def _measured(runs: _Runs, sides: dict[str, Callable[[], float]], rounds: int) -> list[Row]:
    clips = runs.counted * runs.batch * 2 * runs.spec.saccade.focus_num
    rows = compare("R3D, files to update", sides, amount=clips, unit="clips/s", rounds=rounds, seconds=own_seconds)
    for side in sides:
        shares = tuple(100 * share for share in runs.waited[side][1:])
        rows.append(Row("time until a batch is there", side, median(shares), "%", None, shares))
    return rows
