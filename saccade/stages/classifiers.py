"""Linear probe and fine-tuning: each split with a fresh copy of the encoder, its scores, table and picture."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any

import numpy as np
import torch

from saccade import builders
from saccade.checkpoint import save_checkpoint
from saccade.datasets.layout import Dataset, Video
from saccade.datasets.loader_watch import WorkerError
from saccade.engine import ranks
from saccade.engine.optimizers import SGD
from saccade.engine.stop import Stopped
from saccade.errors import SpecError
from saccade.evaluation.classifier import Classifier, ClassifierTimetable, Outcome, Source, outcome, train_classifier
from saccade.evaluation.clip_features import Clips
from saccade.evaluation.finetune import finetune
from saccade.evaluation.linear_probe import linear_probe
from saccade.evaluation.per_class import write_per_class
from saccade.evaluation.retrieval import labels_of
from saccade.figures.confusion import draw_confusion
from saccade.metrics import confusion_matrix
from saccade.models.export import describe, write_weights
from saccade.models.weights import ENCODER_PREFIX, HEAD_PREFIX
from saccade.rng import derive_seed
from saccade.schedules import step_rate
from saccade.spec import ClassifierSpec, Spec
from saccade.stages.run import EVALUATION, Run, check_digest

__all__ = ["Task", "plan_classifiers", "prepare_classifier", "run_classifiers"]

WORDS = {"linear_probe": "Linear probe", "finetune": "Fine-tuning"}


@dataclass(frozen=True, kw_only=True)
class Task:
    """One classifier on one split."""

    protocol: str
    """Its section of `evaluation` in the spec."""
    settings: ClassifierSpec
    split: int
    several: bool
    """Whether the protocol has other splits too."""
    data: Dataset
    timetable: ClassifierTimetable

    @property
    def stage(self) -> str:
        """Name of what it logs in training."""
        return f"{self.protocol}/split{self.split}" if self.several else self.protocol

    @property
    def file(self) -> str:
        """The same in the names of files."""
        return self.stage.replace("/", "_")

    @property
    def classes(self) -> int:
        """How many classes have training videos."""
        return len({video.label for video in self.data.train})

    def metric(self, name: str) -> str:
        """Name of a score: that of the protocol (test/linear_probe_top1), or this split's (test/split2/...)."""
        prefix, _, rest = name.partition("/")
        return f"{prefix}/split{self.split}/{rest}" if self.several else name


def plan_classifiers(run: Run) -> tuple[Task, ...]:
    """What the spec asks for, in order, with the videos of each split.

    Raises:
        DataError: A split is not there.
        SpecError: It has fewer training videos than a batch.
    """
    datasets = {run.spec.data.split: run.data}
    tasks = []
    evaluation = run.spec.evaluation
    for protocol, settings in (("linear_probe", evaluation.linear_probe), ("finetune", evaluation.finetune)):
        splits = _splits(run.spec, settings)
        for split in splits:
            if split not in datasets:
                datasets[split] = builders.build_dataset(run.spec, split)
            task = Task(
                protocol=protocol,
                settings=settings,
                split=split,
                several=len(splits) > 1,
                data=datasets[split],
                timetable=_timetable(run.spec, protocol, settings, len(datasets[split].train)),
            )
            tasks.append(task)
    return tuple(tasks)


def _splits(spec: Spec, settings: ClassifierSpec) -> tuple[int, ...]:
    if not settings.enabled:
        return ()
    return settings.splits or (spec.data.split,)


def _timetable(spec: Spec, protocol: str, settings: ClassifierSpec, num_videos: int) -> ClassifierTimetable:
    if settings.batch_size > num_videos:
        raise SpecError(
            f"evaluation.{protocol}.batch_size: {settings.batch_size} videos do not fit in a training list of "
            f"{num_videos}; use at most {num_videos}"
        )
    every, epochs = spec.checkpoint.every_epochs, settings.epochs
    return ClassifierTimetable(
        epochs=epochs,
        steps_per_epoch=num_videos // settings.batch_size,
        rate=partial(
            step_rate,
            base=settings.learning_rate,
            decay_epochs=settings.decay_epochs,
            decay_rate=settings.decay_rate,
        ),
        log_every_steps=spec.tracking.log_every_steps,
        saves_after_epoch=lambda epoch: epoch % every == 0 or epoch == epochs,
        save_every_steps=spec.checkpoint.every_steps,
        batch_size=settings.batch_size,
        test_every_epochs=settings.test_every_epochs,
    )


class _Progress:
    """How far the classifiers are, in a checkpoint beside that of pre-training."""

    def __init__(self, run: Run, tasks: Sequence[Task], saved: Mapping[str, Any] | None) -> None:
        self.run, self.path = run, run.folder / EVALUATION
        self.datasets = {str(task.split): task.data.identity for task in tasks}
        self.scores: dict[str, dict[str, float]] = {}
        self.stage, self.classifier = "", dict[str, Any]()
        self.saved_step = 0
        """Steps of the present classifier that are in the checkpoint."""
        if saved is not None:
            for task in tasks:
                check_digest(self.path, saved["datasets"][str(task.split)], task.data)
            self.scores, self.stage, self.classifier = saved["scores"], saved["stage"], saved["classifier"]

    @ranks.first_only
    def save(self, stage: str = "", classifier: Classifier | None = None) -> None:
        """Write what is done, and the classifier that is being trained."""
        state = {
            "step": self.run.learner.step,
            "datasets": self.datasets,
            "scores": self.scores,
            "stage": stage,
            "classifier": {} if classifier is None else classifier.state_dict(),
            "mark": self.run.journal.mark(),
        }
        save_checkpoint(self.path, state, keep=self.run.spec.checkpoint.keep_last)
        self.saved_step = 0 if classifier is None else classifier.step


def run_classifiers(run: Run, tasks: Sequence[Task], saved: Mapping[str, Any] | None) -> None:
    """Train and test all classifiers that an earlier attempt has not, and log their scores."""
    progress = _Progress(run, tasks, saved)
    for task in tasks:
        if task.stage not in progress.scores:
            run.begin(task.stage)
            progress.scores[task.stage] = _classify(run, task, progress)
            progress.save()
    for protocol in WORDS:
        done = [task for task in tasks if task.protocol == protocol and task.several]
        if done:
            scores = [progress.scores[task.stage] for task in done]
            means = {name: fmean(score[name] for score in scores) for name in scores[0]}
            run.journal.metrics(means, max(task.timetable.steps for task in done))


def _classify(run: Run, task: Task, progress: _Progress) -> dict[str, float]:
    """Train and test one classifier, write down how it did; returns its scores by the protocol's metric."""
    seed = derive_seed(run.spec.seed, task.protocol, task.split)
    with run.stop.at_once():
        classifier, source = prepare_classifier(run, task, task.settings, seed)
    if progress.stage == task.stage:
        classifier.load_state_dict(progress.classifier)
    progress.saved_step = classifier.step

    def test() -> Outcome:
        with run.stop.at_once():
            found = _test(classifier, source, "test", task.data.test, task.classes)
        if task.timetable.test_every_epochs is not None:
            classifier.note(found.scores)
            run.journal.metrics({f"{task.stage}/test_{top}": v for top, v in found.scores.items()}, classifier.step)
        return found

    try:
        train_classifier(
            classifier,
            source,
            torch.from_numpy(labels_of(task.data.train)).to(run.machine.device),
            task.timetable,
            name=task.stage,
            seed=seed,
            test=test,
            save=lambda: progress.save(task.stage, classifier),
            journal=run.journal,
            stop=run.stop,
        )
    except (Stopped, WorkerError):  # between two steps
        if classifier.step > progress.saved_step:
            progress.save(task.stage, classifier)
        raise
    found = test()
    scores = {f"test/{task.protocol}_{top}": value for top, value in found.scores.items()}
    if task.data.validation:
        with run.stop.at_once():
            held = _test(classifier, source, "validation", task.data.validation, task.classes)
        scores |= {f"val/{task.protocol}_{top}": value for top, value in held.scores.items()}
    scores |= {f"best/test_selected_{task.protocol}_{top}": value for top, value in classifier.best.items()}
    run.journal.metrics({task.metric(name): value for name, value in scores.items()}, task.timetable.steps)
    with run.stop.at_once():
        _write_down(run, task, found)
        _export(run, task, task.settings, classifier)
    return scores


def prepare_classifier(run: Run, task: Task, settings: ClassifierSpec, seed: int) -> tuple[Classifier, Source]:
    """The classifier before its first step, and where its features come from."""
    probe, fine = run.spec.evaluation.linear_probe, run.spec.evaluation.finetune
    clips = Clips(
        train=task.data.train,
        random=builders.build_random_clip(run.spec, seed),
        even=builders.build_even_clips(run.spec, settings.clips),
        size=run.spec.clip.size,
        normalised=settings.normalise,
        workers=run.spec.engine.workers,
        patience_sec=run.spec.engine.data_patience_sec,
        machine=run.machine,
        extract=lambda videos, chooser, encode, part: run.extract(
            videos,
            chooser,
            encode,
            batch_size=max(1, settings.batch_size // settings.clips),  # as many clips as in a training step
            desc=f"{task.stage}: {part} videos",
            normalised=settings.normalise,
        ),
    )
    optimizer = partial(
        SGD,
        lr=settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        fused=run.machine.device.type == "cuda",
    )
    encoder, classes = copy.deepcopy(run.learner.encoder), len(task.data.classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "weights"))
        if task.protocol == "linear_probe":
            return linear_probe(
                encoder,
                clips,
                classes,
                optimizer=optimizer,
                augment=probe.augment,
                batch_norm_training=probe.batch_norm_training,
            )
        return finetune(
            encoder,
            clips,
            classes,
            optimizer=optimizer,
            dropout=fine.dropout,
            encoder_lr_ratio=fine.encoder_lr_ratio,
        )


@torch.no_grad()
def _test(classifier: Classifier, source: Source, part: str, videos: Sequence[Video], classes: int) -> Outcome:
    classifier.train(False)
    logits = classifier.head(source.even(part, videos).flatten(0, 1))
    return outcome(logits.view(len(videos), -1, logits.shape[-1]).cpu().numpy(), labels_of(videos), classes)


@ranks.first_only
def _write_down(run: Run, task: Task, found: Outcome) -> None:
    """The per-class table and the confusion matrix of the test videos."""
    labels, classes = labels_of(task.data.test), task.data.classes
    counts = confusion_matrix(labels, np.ascontiguousarray(found.ranked[:, 0]), len(classes))
    table, figure = f"tables/{task.file}_per_class.csv", f"figures/confusion_{task.file}.png"
    write_per_class(run.folder / table, counts, classes)
    title = f"{WORDS[task.protocol]}, {task.data.name} split {task.split}: top-1 {100 * found.scores['top1']:.1f} %"
    draw_confusion(run.folder / figure, title, counts, classes)
    for path in (table, figure):
        run.journal.artifact(path)


@ranks.first_only
def _export(run: Run, task: Task, settings: ClassifierSpec, classifier: Classifier) -> None:
    """The classifier with its encoder, as `load_encoder` and `encoder.weights` read them."""
    description = describe(
        run.spec.encoder.name,
        run.spec.encoder.width,
        feature_dim=run.learner.encoder.feature_dim,
        clip_frames=run.spec.clip.frames,
        clip_size=run.spec.clip.size,
        normalised=settings.normalise,
    )
    encoder = classifier.encoder or run.learner.encoder
    tensors = {ENCODER_PREFIX + key: value for key, value in encoder.state_dict().items()}
    tensors |= {HEAD_PREFIX + key: value for key, value in classifier.head.state_dict().items()}
    path = f"classifiers/{task.file}.safetensors"
    (run.folder / path).parent.mkdir(exist_ok=True)
    write_weights(run.folder / path, tensors, description)
    run.journal.artifact(path)
