"""`saccade bench data`: clips a second and core, from files to what the encoder sees.

All of it on the CPU, and the part that is left for the CPU when a GPU augments: to read the frames of a sample.
"""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import simplejpeg  # type: ignore[import-untyped]
import torch
from PIL import Image

from saccade.bench.handover import handing_over
from saccade.bench.made_videos import GAZE_ROWS, GRID, write_rows, write_videos
from saccade.bench.measure import Report, Row, compare, one_thread
from saccade.bench.release_clips import release_sample
from saccade.datasets.clips import Item, TrainingViews, VideoClips
from saccade.datasets.frames import decode_frame, list_frames
from saccade.datasets.layout import Dataset, Video, load_dataset
from saccade.datasets.packed import PackedStore, Settings, open_store
from saccade.datasets.packed_plan import plan_pack
from saccade.datasets.packed_write import pack
from saccade.datasets.parallel import keep_freed_memory
from saccade.datasets.render import render
from saccade.rng import generator
from saccade.spec import AugmentationSpec, ClipSpec, SaccadeSpec
from saccade.transforms import Augmentation, apply_view
from saccade.transforms_cpu import apply_view_cpu

__all__ = ["bench_data"]

_SEED = 632
_STORES = (Settings("jpeg"), Settings("decoded"), Settings("jpeg", 128, 95), Settings("decoded", 128))
_ROWS = {
    # Most frames are in several of the six clips.
    "fixations as the gaze makes them": GAZE_ROWS,
    # Six clips of 16 frames without one in common: the worst that a scanpath can ask for.
    "six clips that share no frame": ((24, 0, 31), (16, 32, 63), (32, 64, 95)),
}
_CHOSEN = {Settings("jpeg", 128, 95).name, Settings("decoded", 128).name}


def bench_data(
    *, rounds: int = 7, videos: int = 3, frames: int = 100, height: int = 256, width: int = 340, read: int = 32
) -> Report:
    """Measure the input pipeline of pre-training beside one in the style of the release, on made videos.

    Args:
        rounds: Of which the median counts.
        videos: To train on.
        frames: Of each video, at least 97.
        height: Of the frames, px.
        width: Of the frames, px.
        read: Frames that are read one by one.
    """
    settings = {"videos": videos, "frames of each": frames, "frame size": f"{width} x {height}", "rounds": rounds}
    keep_freed_memory()  # as loaders do
    with TemporaryDirectory(prefix="saccade-bench-") as root, one_thread():
        folder = Path(root) / "made"
        write_videos(folder, videos=videos, frames=frames, height=height, width=width, seed=_SEED)
        files = [path.stat().st_size for path in folder.glob("*/*/*.jpg")]
        report = Report("data", {**settings, "bytes of a JPEG file": round(float(np.mean(files))), "threads": 1})
        for store in _STORES:
            pack(plan_pack(folder, store), workers=1)
        for name, rows in _ROWS.items():
            write_rows(folder, rows)
            report.rows += _pipelines(folder, name, rounds)
            report.rows += _host_side(folder, name, rounds)
            report.rows += _handed_over(folder, name, rounds)
        report.rows += _parts(folder, rounds, read)
        report.rows += _access(folder, rounds, read)
    return report


def _chooser() -> TrainingViews:
    return TrainingViews(
        seed=_SEED,
        clip_frames=ClipSpec().frames,
        focus_num=SaccadeSpec().focus_num,
        grid_num=GRID,
        deduplicate=True,
        margin_h=SaccadeSpec().margin_h,
        augmentation=Augmentation(**AugmentationSpec().model_dump()),
    )


def _load(folder: Path, store: str = "frames") -> Dataset:
    return load_dataset(
        folder.parent,
        folder.name,
        split=1,
        grid_num=GRID,
        scanpaths=True,
        min_frames=ClipSpec().frames,
        store=store,
    )


def _pipelines(folder: Path, rows: str, rounds: int) -> list[Row]:
    chooser, size = _chooser(), ClipSpec().size
    tree = _load(folder).train
    items = [Item(1, video) for video in range(len(tree))]

    def ours(dataset: VideoClips) -> Callable[[], None]:
        def run() -> None:
            for item in items:
                render([dataset[item]], size=size, device=torch.device("cpu"))

        return run

    functions = {
        "release style (Pillow)": _release(tree, items),
        "folders of JPEG files": ours(VideoClips(tree, chooser)),
    }
    for store in _STORES:
        named = f"{store.name} (choice: smaller frames)" if store.name in _CHOSEN else store.name
        functions[named] = ours(VideoClips(_load(folder, store.name).train, chooser))
    distinct = np.mean([len(VideoClips(tree, chooser)[item].frames) for item in items])
    clip_frames = len(items) * 2 * chooser.focus_num * chooser.clip_frames
    group = f"{rows} ({distinct:.0f} frames for 6 x {chooser.clip_frames})"
    return compare(group, functions, amount=clip_frames, unit="frames/s", rounds=rounds)


def _release(videos: Sequence[Video], items: Sequence[Item]) -> Callable[[], None]:
    """The baseline: the release's whole pipeline."""
    chooser, size = _chooser(), ClipSpec().size

    def run() -> None:
        for item in items:
            release_sample(videos[item.video], chooser, item, size)

    return run


def _host_side(folder: Path, rows: str, rounds: int) -> list[Row]:
    """What is left for the CPU when a GPU augments, beside the release, and beside a decoder that does nothing else."""
    chooser = _chooser()
    tree = _load(folder).train
    items = [Item(1, video) for video in range(len(tree))]

    def read(dataset: VideoClips) -> Callable[[], None]:
        def run() -> None:
            for item in items:
                dataset.decode(item)

        return run

    functions = {"folders of JPEG files": read(VideoClips(tree, chooser))}
    for store in _STORES:
        if store.name not in _CHOSEN:
            functions[store.name] = read(VideoClips(_load(folder, store.name).train, chooser))
    clip_frames = len(items) * 2 * chooser.focus_num * chooser.clip_frames
    found = compare(
        f"for a GPU that augments: {rows}",
        {"release style (Pillow)": _release(tree, items), **functions},
        amount=clip_frames,
        unit="frames/s",
        rounds=rounds,
    )
    # Each distinct frame counts once, and short turns: what a busy host takes from one, it takes from the next.
    samples = [_files(tree[item.video], chooser, item) for item in items]
    amount, rounds = sum(len(files) for files in samples), 5 * rounds
    for of, name, baseline in (
        ("files", "folders of JPEG files", _decoder(samples)),
        ("memory", "packed_jpeg", _decoder([[file.read_bytes() for file in files] for files in samples])),
    ):
        group = f"beside the decoder alone, from {of}: {rows}"
        beside = {"each frame decoded and kept": baseline, name: functions[name]}
        found += compare(group, beside, amount=amount, unit="distinct frames/s", rounds=rounds)
    return found


def _handed_over(folder: Path, rows: str, rounds: int) -> list[Row]:
    """The same in a worker, and on its way to the trainer."""
    chooser = _chooser()
    found = []
    for store in ("frames", "packed_decoded"):
        of = "folders of JPEG files" if store == "frames" else store
        dataset = VideoClips(_load(folder, store).train, chooser)
        clip_frames = 2 * chooser.focus_num * chooser.clip_frames
        found += handing_over(f"from a worker to the trainer, {of}: {rows}", dataset, clip_frames, rounds)
    return found


def _decoder(samples: Sequence[Sequence[Path | bytes]]) -> Callable[[], None]:
    """The least that gives a sample's frames: each file is decoded into its place among them."""
    shape = decode_frame(_content(samples[0][0]), "file").shape

    def run() -> None:
        for files in samples:
            for file, frame in zip(files, np.empty((len(files), *shape), np.uint8), strict=True):
                simplejpeg.decode_jpeg(_content(file), colorspace="RGB", buffer=frame)

    return run


def _content(file: Path | bytes) -> bytes:
    if isinstance(file, bytes):
        return file
    with open(file, "rb", buffering=0) as opened:
        return opened.read()


def _files(video: Video, chooser: TrainingViews, item: Item) -> list[Path]:
    """The files of the frames that a sample needs, each once."""
    names = list_frames(video.frame_dir)
    starts = [clip.start for clip in chooser.clips(video, item)]
    needed = sorted({start + frame for start in starts for frame in range(chooser.clip_frames)})
    return [video.frame_dir / names[number] for number in needed]


def _parts(folder: Path, rounds: int, read: int) -> list[Row]:
    """What a JPEG file takes, and what a view takes."""
    video = _load(folder).train[0]
    files = [(video.frame_dir / name).read_bytes() for name in list_frames(video.frame_dir)[:read]]

    def each(function: Callable[[bytes], object]) -> Callable[[], None]:
        def run() -> None:
            for file in files:
                function(file)

        return run

    def opencv(file: bytes) -> None:
        image = np.asarray(cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR))
        cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    decoders = {
        "Pillow": each(lambda file: np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))),
        "OpenCV": each(opencv),
        "libjpeg-turbo (simplejpeg)": each(lambda file: decode_frame(file, "file")),
    }
    rows = compare("decoding a file", decoders, amount=len(files), unit="ms/frame", rounds=rounds)
    chooser, size = _chooser(), ClipSpec().size
    sample = VideoClips([video], chooser)[Item(1, 0)]
    clip, masks = sample.frames[: chooser.clip_frames], sample.masks
    assert masks is not None
    out = torch.empty(len(clip), size, size, 3)
    height, width = clip.shape[-2:]
    views = [view for epoch in range(4) for view in chooser.views(Item(epoch, 0), 6, height, width)]

    def plain() -> None:
        for view in views:
            apply_view(clip, masks[:1], view, size=size)

    def fast() -> None:
        for view in views:
            apply_view_cpu(clip, masks[:1], view, out)

    functions = {"torchvision": plain, "as here": fast}
    amount = len(views) * len(clip)
    return rows + compare("crop, colours, blur, mask", functions, amount=amount, unit="ms/frame", rounds=rounds)


def _access(folder: Path, rounds: int, read: int) -> list[Row]:
    """Frames in their order and out of it, one at a time."""
    rows = []
    for settings in (Settings("jpeg"), Settings("decoded")):
        store = open_store(folder / settings.name)
        places = [(name, number) for name in store.names for number in range(store.frames_of(name).count)]
        picked = generator(_SEED, "benchmark access").choice(len(places), read, replace=False)
        functions = {
            "in order": _reading(store, places[:read]),
            "at random": _reading(store, [places[at] for at in picked]),
        }
        group = f"reading a frame of {settings.name}"
        rows += compare(group, functions, amount=read, unit="ms/frame", rounds=rounds)
    return rows


def _reading(store: PackedStore, places: Sequence[tuple[str, int]]) -> Callable[[], None]:
    def run() -> None:
        for name, number in places:
            store.read(name, [number])

    return run
