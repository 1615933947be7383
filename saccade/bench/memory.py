"""`saccade bench memory`: the most host memory that a training process takes at the paper's settings.

All that lies on the host when networks and activations lie on a GPU: the program with its libraries, data workers and
the frames that they hand over, the memory bank, a clustering and its table. The bank is counted though it lies on the
GPU too; a GPU's driver, which takes host memory of its own, is not.
"""

from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from saccade import builders, runner
from saccade.bench.clustering import clustered
from saccade.bench.made_videos import GAZE_ROWS, GRID, write_rows, write_videos
from saccade.bench.measure import Report, Row
from saccade.clustering import write_clustering
from saccade.datasets.clips import VideoClips, epoch_batches
from saccade.datasets.layout import Video, load_dataset
from saccade.datasets.loader import make_loader
from saccade.losses import updated_slots
from saccade.memory_bank import MemoryBank
from saccade.plan.peak import PeakMemory
from saccade.spec import Spec

__all__ = ["bench_memory"]

_VIDEOS = 9537
"""Of the first training split of UCF101."""


def bench_memory(*, videos: int = _VIDEOS, batches: int = 6, dim: int = 512, **overrides: object) -> Report:
    """Measure the memory of a training process on the host, the data workers included.

    Args:
        videos: In the training list.
        batches: Of training that are loaded.
        dim: Of features.
        overrides: Fields of the spec that differ from the paper's.
    """
    spec = Spec(name="paper", **overrides)  # type: ignore[arg-type]
    report = Report(
        "memory",
        # A training process has imported what the runner imports.
        {
            "process": runner.__name__,
            "videos": videos,
            "batch_size": spec.pretrain.batch_size,
            "workers": spec.engine.workers,
        },
    )
    with TemporaryDirectory(prefix="saccade-bench-") as root, PeakMemory() as peak:
        folder = Path(root) / "made"
        write_videos(folder, videos=2, frames=100, height=256, width=340, seed=spec.seed)
        write_rows(folder, GAZE_ROWS)
        found = load_dataset(folder.parent, folder.name, split=1, grid_num=GRID, scanpaths=True, min_frames=16)
        train = (found.train * videos)[:videos]
        sizes = {"program and libraries": peak.bytes}
        bank = MemoryBank(videos * spec.saccade.focus_num, dim, torch.Generator().manual_seed(spec.seed))
        sizes["and the memory bank"] = peak.bytes
        frames = _train(spec, train, bank, batches)
        sizes["and data workers with their frames"] = peak.bytes
        _cluster(spec, train, found.classes, dim, Path(root))
        sizes["and a clustering: the most of all"] = peak.bytes
        sizes["frames of one batch"] = frames
    report.rows = [Row("host memory", name, size / 1e6, "MB", None, (size / 1e6,)) for name, size in sizes.items()]
    return report


def _train(spec: Spec, train: tuple[Video, ...], bank: MemoryBank, batches: int) -> int:
    """What a training loop does on the host; returns the bytes of the largest batch's frames."""
    items = epoch_batches(len(train), spec.pretrain.batch_size, seed=spec.seed, first_step=0, last_step=batches)
    loader = make_loader(VideoClips(train, builders.build_training_views(spec)), items, spec.engine.workers)
    most, fixations = 0, spec.saccade.focus_num
    for samples in islice(loader, batches):
        most = max(most, sum(sample.frames.nbytes for sample in samples))
        firsts = torch.tensor([sample.index * fixations for sample in samples])
        slots = (firsts[:, None] + torch.arange(fixations)).flatten()
        features = torch.ones(len(slots), bank.shape[1])
        bank.write(slots, updated_slots(bank.read(slots), slots, features, momentum=spec.contrast.memory_momentum))
    return most


def _cluster(spec: Spec, train: tuple[Video, ...], classes: tuple[str, ...], dim: int, folder: Path) -> None:
    """A clustering as after an epoch, and its record."""
    features = clustered(len(train) * spec.saccade.focus_num, dim)
    prototypes = builders.fit(spec, features, torch.device("cpu"))
    write_clustering(folder, prototypes, train, classes, spec.saccade.focus_num)
