"""From measured pieces to a whole run: how often each comes, how loading and work overlap, what stays on the disk."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from saccade import builders
from saccade.plan.measured import Measured, Piece
from saccade.pretrain import PretrainTimetable
from saccade.spec import ClassifierSpec, Spec
from saccade.stages.classifiers import Task

__all__ = ["EpochForecast", "File", "Plan", "Stage", "forecast", "overlapped_sec"]


@dataclass(frozen=True)
class Stage:
    """A part of a run."""

    name: str
    seconds: float
    count: str
    """What it consists of, for people."""


@dataclass(frozen=True)
class EpochForecast:
    """An epoch of pre-training, s."""

    load_sec: float
    """Loading of its clips, if nothing else went on."""
    work_sec: float
    """Its steps, if clips were there at once."""
    overlapped_sec: float
    """Both at a time, as they are: what an epoch takes."""

    @property
    def waiting(self) -> float:
        """Part of the time in which no step goes on, for want of clips or of cores."""
        return 1 - self.work_sec / self.overlapped_sec


@dataclass(frozen=True)
class File:
    """Something in the run's folder."""

    name: str
    count: int
    bytes: int
    """Of all of them."""
    tracked_bytes: int
    """That MLflow keeps."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run is going to take."""

    name: str
    measured: Measured
    steps: int
    steps_per_epoch: int
    epochs: int
    epoch: EpochForecast | None
    """None: nothing is trained."""
    prototype_epoch: EpochForecast | None
    """The epochs after the first clustering; None: there are no such."""
    clusterings: tuple[int, ...]
    """Epochs after which there is one."""
    stages: tuple[Stage, ...]
    files: tuple[File, ...]
    advice: tuple[str, ...] = ()
    """What a colleague would say to it."""

    @property
    def seconds(self) -> float:
        """Of the whole run."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def disk_bytes(self) -> int:
        """Of the run's folder at its end."""
        return sum(file.bytes for file in self.files)

    @property
    def tracked_bytes(self) -> int:
        """That MLflow gets."""
        return sum(file.tracked_bytes for file in self.files)


def overlapped_sec(piece: Piece, *, workers: int, gain: float, cores: float) -> float:
    """Seconds of a batch in a long row of batches.

    Without workers it is loaded, then worked on. With workers the next ones are loaded meanwhile, so the slower of the
    two counts, but the cores have to do both.

    Args:
        piece: The batch.
        workers: Processes that load.
        gain: How many times faster they are than one process.
        cores: That share the work.
    """
    if not workers:
        return piece.load_sec + piece.work_sec
    return max(piece.load_sec / gain, piece.work_sec, (piece.load_cpu_sec + piece.work_cpu_sec) / cores)


def forecast(spec: Spec, measured: Measured, tasks: Sequence[Task], *, weights: bool) -> Plan:
    """Reckon with the pieces.

    Args:
        spec: What is going to be run.
        measured: Its pieces.
        tasks: Its classifiers.
        weights: Whether the run starts from given weights.
    """
    timetable = builders.build_timetable(spec, measured.videos["train"])
    epochs = range(1, timetable.epochs + 1)
    clusterings = tuple(epoch for epoch in epochs if timetable.clusters_after(epoch))
    after = measured.prototyping
    reckoning = _Reckoning(spec, measured)
    stages = tuple(stage for stage in reckoning.stages(timetable, clusterings, tasks, weights) if stage.seconds)
    files = _files(spec, measured, timetable, clusterings, tasks, sum(stage.seconds for stage in stages))
    return Plan(
        name=spec.name,
        measured=measured,
        steps=timetable.steps,
        steps_per_epoch=timetable.steps_per_epoch,
        epochs=timetable.epochs,
        epoch=reckoning.epoch(measured.step, timetable) if measured.step is not None else None,
        prototype_epoch=reckoning.epoch(after.step, timetable) if after is not None else None,
        clusterings=clusterings,
        stages=stages,
        files=tuple(file for file in files if file.count),
    )


class _Reckoning:
    def __init__(self, spec: Spec, measured: Measured) -> None:
        self.spec, self.measured = spec, measured

    def _batch(self, piece: Piece) -> float:
        return overlapped_sec(
            piece,
            workers=self.spec.engine.workers,
            gain=self.measured.workers_gain,
            cores=self.measured.machinery.cores,
        )

    def epoch(self, piece: Piece, timetable: PretrainTimetable) -> EpochForecast:
        """An epoch of such batches."""
        count = timetable.steps_per_epoch
        gain = self.measured.workers_gain
        return EpochForecast(count * piece.load_sec / gain, count * piece.work_sec, count * self._batch(piece))

    def _video(self, clips: int, encoders: int = 1) -> float:
        """Seconds of a video in a pass of that many clips each, which are read once for all encoders."""
        piece = self.measured.passes[clips]
        work = replace(piece, work_sec=encoders * piece.work_sec, work_cpu_sec=encoders * piece.work_cpu_sec)
        return self._batch(work) / piece.videos

    def stages(
        self, timetable: PretrainTimetable, clusterings: Sequence[int], tasks: Sequence[Task], weights: bool
    ) -> list[Stage]:
        """In the order of the run."""
        videos, retrieval = self.measured.videos, self.spec.evaluation.retrieval
        tested = videos["train"] + videos["test"]
        validated = videos["train"] + videos["validation"]
        stages = [Stage("start", self.measured.start_sec, "imports, reading of the dataset, networks")]
        stages += self._pretraining(timetable, clusterings)
        within = sum(map(timetable.validates_after, range(1, timetable.epochs + 1)))
        if within:
            stages.append(self._pass_stage(f"{within} validations", retrieval.clips, within * validated))
        if retrieval.validate_every_epochs is not None or (retrieval.enabled and videos["validation"]):
            stages.append(self._pass_stage("last validation", retrieval.clips, validated))
        if retrieval.enabled:
            # The random encoder and the given weights look at the same clips; bare pixels take no time.
            encoders = 1 + (1 + bool(weights and timetable.epochs) if retrieval.baselines else 0)
            stages.append(self._pass_stage("test retrieval", retrieval.clips, tested, encoders))
        stages.append(Stage("pictures", self.measured.pictures_sec, "of the data and of what is found"))
        return stages + [self._classifier(task, task.settings) for task in tasks]

    def _pass_stage(self, name: str, clips: int, videos: int, encoders: int = 1) -> Stage:
        each = f" for each of {encoders} encoders" if encoders > 1 else ""
        return Stage(name, videos * self._video(clips, encoders), f"{videos} videos of {clips} clips each{each}")

    def _pretraining(self, timetable: PretrainTimetable, clusterings: Sequence[int]) -> list[Stage]:
        measured = self.measured
        if measured.step is None:
            return []
        late = timetable.epochs - clusterings[0] if clusterings else 0
        seconds = (timetable.epochs - late) * self.epoch(measured.step, timetable).overlapped_sec
        after, clustering = measured.prototyping, []
        if after is not None:
            seconds += late * self.epoch(after.step, timetable).overlapped_sec
            video = self._batch(after.features) / after.features.videos
            one = measured.videos["train"] * video + after.kmeans_sec + after.record_sec
            words = f"k-means takes {len(clusterings) * after.kmeans_sec:.3g} s of it"
            clustering = [Stage(f"{len(clusterings)} clusterings", len(clusterings) * one, words)]
        saves = sum(map(timetable.saves, range(1, timetable.steps + 1)))
        return [
            Stage("pre-training", seconds, f"{timetable.steps} steps"),
            *clustering,
            Stage(f"{saves} checkpoints", saves * measured.save_sec, "while training stands still"),
        ]

    def _classifier(self, task: Task, settings: ClassifierSpec) -> Stage:
        piece, timetable, probe = self.measured.classifiers[task.protocol], task.timetable, task.protocol != "finetune"
        stored = probe and not self.spec.evaluation.linear_probe.augment
        frozen = probe and not self.spec.evaluation.linear_probe.batch_norm_training
        tests = 1
        if settings.test_every_epochs is not None and not frozen:
            tests += (timetable.epochs - 1) // settings.test_every_epochs
        encoded = tests * len(task.data.test) + len(task.data.validation) + stored * len(task.data.train)
        # Stored features need no loading.
        step = piece.work_sec if stored else self._batch(piece)
        saves = sum(map(timetable.saves, range(1, timetable.steps + 1)))
        seconds = timetable.steps * step + encoded * self._video(settings.clips) + saves * self.measured.save_sec
        return Stage(task.stage.replace("_", " "), seconds, f"{timetable.steps} steps, {encoded} videos encoded")


def _files(
    spec: Spec,
    measured: Measured,
    timetable: PretrainTimetable,
    clusterings: Sequence[int],
    tasks: Sequence[Task],
    seconds: float,
) -> list[File]:
    """What is in the run's folder at its end, but for pictures and tables."""
    after, plain = measured.prototyping, measured.checkpoint_bytes
    full, recorded = (after.checkpoint_bytes, after.record_bytes) if after is not None else (plain, 0)

    def size(epochs: Sequence[int]) -> int:
        # Prototypes of a clustering after an epoch are not in that epoch's checkpoint yet.
        return sum(full if clusterings and epoch > clusterings[0] else plain for epoch in epochs)

    epochs = range(1, timetable.epochs + 1)
    kept = [epoch for epoch in epochs if builders.keeps(spec, epoch)]
    saved = [epoch for epoch in epochs if timetable.saves_after_epoch(epoch)]
    # The latest of the rolling ones is the kept one of the last epoch by another name.
    rolling = [epoch for epoch in saved[-spec.checkpoint.keep_last :] if epoch not in kept]
    best = [timetable.epochs] if spec.evaluation.retrieval.validate_every_epochs is not None and kept else []
    # The last one says that all is done, and holds nothing else; those before it are of one classifier after the other.
    largest = sorted(measured.classifier_bytes.values())[-1:] * (spec.checkpoint.keep_last - 1)
    minutes = spec.checkpoint.track_every_minutes
    # One at a time, each in place of the one before it.
    sent = full if kept and minutes is not None and seconds > 60 * minutes else 0
    tracked = {
        "kept checkpoints": (len(kept), size(kept)),
        "best checkpoint": (len(best), size(best)),
        "clusterings": (len(clusterings), len(clusterings) * recorded),
        "encoder": (1, measured.encoder_bytes),
        "classifiers": (len(tasks), len(tasks) * measured.encoder_bytes),
    }
    return [
        File("rolling checkpoints", len(rolling), size(rolling), sent),
        File("checkpoints of classifiers", len(largest), sum(largest), 0),
        *(File(name, count, amount, amount) for name, (count, amount) in tracked.items()),
    ]
