"""What is measured of a spec on its data and machine, in seconds and bytes; the forecast reckons with nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Machinery", "Measured", "Piece", "Prototyping"]


@dataclass(frozen=True)
class Piece:
    """A batch of one kind of work: its clips are loaded by one process, then worked on. Medians where repeated."""

    videos: int
    """In the batch."""
    load_sec: float
    """Reading and decoding, in one process."""
    load_cpu_sec: float
    work_sec: float
    """All else: augmentation, networks, optimiser."""
    work_cpu_sec: float
    """Summed over threads."""


@dataclass(frozen=True, kw_only=True)
class Machinery:
    """Where it was measured."""

    description: str
    """For people: the GPU's name, or the CPU's threads."""
    device: str
    """"cpu" or "cuda"."""
    precision: str
    bf16_units: bool
    cuda_there: bool
    cores: float
    load: float
    """Processes that wanted a core in the minute before."""
    memory_bytes: int | None
    """That this process could take; None: unknown."""
    disk_bytes: int
    """Free where the runs are."""


@dataclass(frozen=True, kw_only=True)
class Prototyping:
    """What comes with prototypes."""

    features: Piece
    """Of some videos' fixations, for a clustering."""
    kmeans_sec: float
    """Of all clusterings after one epoch."""
    record_sec: float
    """Their table and pictures."""
    record_bytes: int
    """What these are on disk."""
    step: Piece
    """Of training, from then on."""
    checkpoint_bytes: int
    """Of a checkpoint, from then on."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """All of it. What the spec does not ask for is None, 0 or empty."""

    machinery: Machinery
    start_sec: float
    """From the start of the process to the first step: imports, reading of the dataset, networks."""
    videos: Mapping[str, int]
    """train, validation and test."""
    step: Piece | None
    """Of training, before there are prototypes."""
    prototyping: Prototyping | None
    """None too where prototypes would come after the last epoch."""
    workers_gain: float
    """How many times faster the spec's workers load than one process; 1 without workers."""
    frame_px: tuple[int, int]
    """Height and width of a frame."""
    pictures_sec: float
    """Pictures of the data, and of what the test videos have found."""
    passes: Mapping[int, Piece]
    """Encoding of some videos, by the number of clips a video."""
    classifiers: Mapping[str, Piece] = field(default_factory=dict)
    """A training step of each protocol."""
    save_sec: float
    """Of a checkpoint."""
    checkpoint_bytes: int
    """Of a checkpoint, before there are prototypes."""
    classifier_bytes: Mapping[str, int] = field(default_factory=dict)
    """Of each protocol's checkpoint."""
    encoder_bytes: int
    """Exported, with its projection."""
    peak_host_bytes: int
    """Of this process and its workers."""
    peak_device_bytes: int | None
    """On the GPU."""
