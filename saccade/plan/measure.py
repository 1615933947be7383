"""Measure the pieces of a run with the code that runs them: real clips, three real training steps, a clustering, an
evaluation of a few videos, a checkpoint. All of it in a scratch folder; the run's own seed, so the clips of its start.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from saccade import builders
from saccade.checkpoint import save_checkpoint
from saccade.datasets.clips import ClipChooser, Item, Sample, VideoClips, epoch_batches
from saccade.datasets.layout import Video
from saccade.datasets.loader import make_loader
from saccade.datasets.render import render
from saccade.engine.device import has_bf16_units
from saccade.engine.host import free_bytes, memory_available_bytes, usable_cores
from saccade.evaluation.classifier import classifier_step
from saccade.evaluation.retrieval import labels_of, retrieve
from saccade.plan.measured import Machinery, Measured, Piece, Prototyping
from saccade.plan.peak import PeakMemory
from saccade.plan.timing import Seconds, median, repeated, timed
from saccade.pretrain import training_step
from saccade.prototypes import Prototypes, k_means_starts
from saccade.spec import PrototypeSpec
from saccade.stages.classifiers import Task, prepare_classifier
from saccade.stages.pictures import draw_retrieval, draw_training_clips
from saccade.stages.pretraining import export_encoder, fixation_encoder, record_clustering, write_last
from saccade.stages.retrieval import current_encoder
from saccade.stages.run import LAST, Run

__all__ = ["machinery", "measure"]

STEPS = 3
"""Training steps that are measured."""
_LATER_PASSES = 4
"""Of k-means++, whose iterations look at less and less: together they take as long as 3 to 5 full ones."""
_STORED_VIDEOS = 2
"""Videos whose features are made for a step on stored ones, which takes the same whatever they are."""


def machinery(run: Run, disk: Path) -> Machinery:
    """What the run is measured on.

    Args:
        run: The run.
        disk: Folder of the runs, there or not.
    """
    return Machinery(
        description=run.machine.description,
        device=run.machine.device.type,
        precision=run.machine.precision,
        bf16_units=has_bf16_units(run.machine.device),
        cuda_there=torch.cuda.is_available(),
        cores=usable_cores(),
        load=os.getloadavg()[0],
        memory_bytes=memory_available_bytes(),
        disk_bytes=free_bytes(disk),
    )


def measure(
    run: Run, tasks: Sequence[Task], *, where: Machinery, start_sec: float, peak: PeakMemory, say: Callable[[str], None]
) -> Measured:
    """Measure all that the spec asks for.

    Args:
        run: In a scratch folder; its learner is trained a little.
        tasks: Its classifiers.
        where: Of `machinery`, from before anything was measured.
        start_sec: What it took to come here.
        peak: Watches the memory.
        say: Is told what comes next.
    """
    step, gain, prototyping = None, 1.0, None
    say("loading and training steps")
    if run.timetable.steps:
        step = _training(run, STEPS)
        gain = _workers_gain(run, step)
    save_sec, checkpoint_bytes = _checkpoint(run)
    if any(map(run.timetable.clusters_after, range(1, run.timetable.epochs + 1))):
        say("a clustering")
        prototyping = _prototyping(run)
    say("an evaluation, pictures")
    pictures_sec = _pictures(run)
    passes = {clips: _pass(run, clips) for clips in _evaluated_clips(run, tasks)}
    protocols = {task.protocol: task for task in tasks}
    classifiers = {name: _classifier(run, task) for name, task in protocols.items()}
    export_encoder(run)
    return Measured(
        machinery=where,
        start_sec=start_sec,
        videos={"train": len(run.data.train), "validation": len(run.data.validation), "test": len(run.data.test)},
        step=step,
        prototyping=prototyping,
        workers_gain=gain,
        frame_px=_frame_px(run),
        pictures_sec=pictures_sec,
        passes=passes,
        classifiers={name: piece for name, (piece, _) in classifiers.items()},
        save_sec=save_sec,
        checkpoint_bytes=checkpoint_bytes,
        classifier_bytes={name: size for name, (_, size) in classifiers.items()},
        encoder_bytes=_size(run.folder / "encoder"),
        peak_host_bytes=peak.bytes,
        peak_device_bytes=torch.cuda.max_memory_reserved() if run.machine.device.type == "cuda" else None,
    )


def _frame_px(run: Run) -> tuple[int, int]:
    (sample,) = _load(VideoClips(run.data.test, builders.build_even_clips(run.spec, 1)), [Item(0, 0)])
    height, width = sample.frames.shape[-2:]
    return int(height), int(width)


def _load(videos: VideoClips, items: Sequence[Item]) -> list[Sample]:
    return [videos[item] for item in items]


def _piece(videos: int, loads: Sequence[Seconds], works: Sequence[Seconds]) -> Piece:
    load, work = median(loads), median(works)
    return Piece(videos, load.wall, load.cpu, work.wall, work.cpu)


def _training(run: Run, steps: int) -> Piece:
    """Real steps on real batches."""
    recipe, batch_size, device = builders.build_recipe(run.spec), run.spec.pretrain.batch_size, run.machine.device
    videos = VideoClips(run.data.train, builders.build_training_views(run.spec))
    loads, works = [], []
    first = run.learner.step
    run.learner.train()
    run.learner.set_rates(run.timetable.rate(1), run.timetable.projection_lr_ratio)
    for items in epoch_batches(
        len(run.data.train), batch_size, seed=run.spec.seed, first_step=first, last_step=first + steps
    ):
        samples, load = timed(partial(_load, videos, items), device)

        def step(samples: list[Sample] = samples) -> None:
            clips, masks = render(samples, size=recipe.clip_size, device=device)
            places = torch.tensor([sample.index for sample in samples], device=device)
            training_step(run.learner, recipe, clips, masks, places, run.machine)

        works.append(timed(step, device)[1])
        loads.append(load)
        run.learner.step += 1
    return _piece(batch_size, loads, works)


def _workers_gain(run: Run, step: Piece) -> float:
    """How many times faster the workers load batches than one process, once they are under way."""
    workers = run.spec.engine.workers
    if not workers:
        return 1.0
    videos = VideoClips(run.data.train, builders.build_training_views(run.spec))
    batches = epoch_batches(
        len(run.data.train), step.videos, seed=run.spec.seed, first_step=STEPS, last_step=STEPS + 2 * workers
    )
    arrivals = [time.perf_counter() for _ in make_loader(videos, batches, workers, machine=run.machine)]
    # Before the first batch comes, the workers have to start.
    interval = (arrivals[-1] - arrivals[0]) / (len(arrivals) - 1)
    return min(max(step.load_sec / max(interval, 1e-9), 0.1), float(workers))


def _spread(videos: Sequence[Video], count: int) -> list[int]:
    """Positions over the whole list, which is sorted by class."""
    return [int(place) for place in np.linspace(0, len(videos) - 1, min(count, len(videos)))]


@torch.no_grad()
def _encoding(
    run: Run,
    videos: Sequence[Video],
    chooser: ClipChooser,
    encode: Callable[[Tensor, Tensor | None], Tensor],
    batch_size: int,
) -> Piece:
    """A batch of a pass over videos."""
    run.learner.train(False)
    items = [Item(1, place) for place in _spread(videos, batch_size)]
    samples, load = timed(lambda: _load(VideoClips(videos, chooser), items), run.machine.device)

    def work() -> None:
        clips, masks = render(samples, size=run.spec.clip.size, device=run.machine.device)
        with run.machine.autocast():
            encode(clips, masks).float().cpu()

    return _piece(len(items), [load], [repeated(work, run.machine.device)])


def _prototyping(run: Run) -> Prototyping:
    """A clustering, and a step and a checkpoint with its prototypes."""
    chooser = builders.build_fixation_clips(run.spec)
    features = _encoding(run, run.data.train, chooser, fixation_encoder(run), run.spec.pretrain.batch_size)
    kmeans_sec, prototypes = _kmeans(run)
    record_sec, record_bytes = _record(run, prototypes)
    run.learner.set_prototypes(prototypes)
    step = _training(run, 1)
    return Prototyping(
        features=features,
        kmeans_sec=kmeans_sec,
        record_sec=record_sec,
        record_bytes=record_bytes,
        step=step,
        checkpoint_bytes=_checkpoint(run)[1],
    )


def _kmeans(run: Run) -> tuple[float, tuple[Prototypes, ...]]:
    """Seconds of k-means on as many features as there will be, reckoned from one iteration of it."""
    settings = run.spec.prototypes
    points = len(run.learner.memory)
    features = torch.randn(points, run.spec.contrast.projection_dim, generator=torch.Generator().manual_seed(0))
    normalised = torch.nn.functional.normalize(features, dim=1).numpy()
    total, found = 0.0, list[Prototypes]()
    for num_clusters in settings.num_clusters:
        quick = settings.model_copy(
            update={
                "num_clusters": (num_clusters,),
                "iterations": 1,
                "restarts": 1,
                "min_points_per_centroid": 1,  # what faiss would say, the plan says better
            }
        )
        spec = run.spec.model_copy(update={"prototypes": quick})
        device = run.machine.device
        prototypes, seconds = timed(partial(builders.fit, spec, normalised, device), device)
        total += seconds.wall * _compared(settings, num_clusters, points) / _compared(quick, num_clusters, points)
        found += prototypes
    return total, tuple(found)


def _compared(settings: PrototypeSpec, num_clusters: int, points: int) -> int:
    """How many points k-means compares with all centroids."""
    trained = min(points, num_clusters * settings.max_points_per_centroid)
    plus_plus, starts = k_means_starts(settings.seeding, settings.restarts, num_clusters)
    if not plus_plus:
        return starts * settings.iterations * trained + points
    # Seeding is one pass, and what was not trained on is assigned at the end.
    return starts * (1 + min(settings.iterations, _LATER_PASSES)) * trained + (points if trained < points else 0)


def _record(run: Run, prototypes: tuple[Prototypes, ...]) -> tuple[float, int]:
    """Seconds and bytes of a clustering's table and pictures."""
    folder, seconds = timed(lambda: record_clustering(run, 1, prototypes), torch.device("cpu"))
    return seconds.wall, _size(folder)


def _pictures(run: Run) -> float:
    """Seconds of the pictures before training, and of those of the test retrieval."""

    def draw() -> None:
        draw_training_clips(run)
        if run.spec.evaluation.retrieval.enabled:
            queries, gallery = (
                torch.nn.functional.normalize(torch.randn(len(part), run.spec.contrast.projection_dim), dim=1).numpy()
                for part in (run.data.test, run.data.train)
            )
            labels = labels_of(run.data.test), labels_of(run.data.train)
            draw_retrieval(run, retrieve(queries, gallery, *labels, run.spec.evaluation.retrieval.topk))

    return timed(draw, torch.device("cpu"))[1].wall


def _checkpoint(run: Run) -> tuple[float, int]:
    """Seconds and bytes of the rolling checkpoint."""
    seconds = repeated(lambda: write_last(run, 1), torch.device("cpu"))
    return seconds.wall, (run.folder / LAST).stat().st_size


def _evaluated_clips(run: Run, tasks: Sequence[Task]) -> set[int]:
    """Numbers of clips a video that anything is evaluated with."""
    retrieval = run.spec.evaluation.retrieval
    wanted = retrieval.enabled or retrieval.validate_every_epochs is not None
    return {task.settings.clips for task in tasks} | ({retrieval.clips} if wanted else set())


def _pass(run: Run, clips: int) -> Piece:
    chooser = builders.build_even_clips(run.spec, clips)
    return _encoding(run, run.data.test, chooser, current_encoder(run), run.spec.evaluation.retrieval.batch_size)


def _classifier(run: Run, task: Task) -> tuple[Piece, int]:
    """A training step of a classifier, and the bytes of its checkpoint."""
    device, batch_size = run.machine.device, task.settings.batch_size
    stored = task.protocol == "linear_probe" and not run.spec.evaluation.linear_probe.augment
    few = [task.data.train[place] for place in _spread(task.data.train, _STORED_VIDEOS if stored else batch_size)]
    small = replace(task, data=replace(task.data, train=tuple(few)))
    classifier, source = prepare_classifier(run, small, task.settings, run.spec.seed)
    classifier.train()
    items = [Item(1, place % len(few)) for place in range(batch_size)]
    labels = torch.from_numpy(labels_of(few)).to(device)

    def load() -> Sequence[object]:
        clips = VideoClips(few, builders.build_random_clip(run.spec, run.spec.seed))
        return items if stored else _load(clips, items)

    batch, loading = timed(load, device)

    def work() -> None:
        features, videos = source.features(batch)
        classifier_step(classifier, features, labels[videos], torch.Generator().manual_seed(0))

    piece = _piece(batch_size, [loading], [repeated(work, device)])
    path = run.folder / "classifier.pt"
    save_checkpoint(path, {"classifier": classifier.state_dict()})
    return piece, path.stat().st_size


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
