"""The trainer process: one spec in, one finished run folder out. It writes files only; the supervisor ships them.

`python -m saccade.runner RUN_DIR`, started by `saccade run`, reads RUN_DIR/spec.yaml and goes on from
RUN_DIR/checkpoints/last.pt when that exists. Exit codes: 0 finished, 2 a user's mistake (one line on stderr), 143
stopped.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saccade import builders
from saccade.checkpoint import link_checkpoint, load_checkpoint, save_checkpoint
from saccade.clustering import cluster_metrics, write_clustering
from saccade.datasets.clips import Item, VideoClips, epoch_batches, make_loader, render
from saccade.datasets.layout import Video
from saccade.engine.device import pick_machine
from saccade.engine.stop import Stopped, StopRequest
from saccade.errors import CheckpointError, SaccadeError, SpecError
from saccade.evaluation.retrieval import (
    Retrieval,
    check_gallery,
    coarse_pixels,
    labels_of,
    projected_encoder,
    retrieve,
    video_features,
)
from saccade.features import extract_features
from saccade.figures.pictures import draw_clusters, draw_masked_clips, draw_neighbours
from saccade.gaze.masks import fixation_box
from saccade.journal import Journal
from saccade.models.export import save_encoder
from saccade.pretrain import pretrain
from saccade.prototypes import Prototypes
from saccade.report import write_report
from saccade.run_dir import RunDir
from saccade.spec import Spec
from saccade.spec_reader import read_spec
from saccade.tracking.shipping_state import attempted_offset

__all__ = ["Run", "main"]

LAST = "checkpoints/last.pt"


class Run:
    """One experiment from its spec to its report, in one process.

    Args:
        spec: What to do.
        folder: The run's folder.
        journal: Where what happens is noted.
        stop: Says when to leave early.
    """

    def __init__(self, spec: Spec, folder: Path, journal: Journal, stop: StopRequest) -> None:
        self.spec, self.folder, self.journal, self.stop = spec, folder, journal, stop
        self.machine = pick_machine(spec.engine.device, spec.engine.precision, spec.engine.threads)
        self.data = builders.build_dataset(spec)
        self.timetable = builders.build_timetable(spec, len(self.data.train))
        if spec.evaluation.retrieval.enabled:
            check_gallery(spec.evaluation.retrieval.topk, self.data.train)
        self._check_clusters()
        self.learner = builders.build_learner(spec, len(self.data.train), self.machine)

    def _check_clusters(self) -> None:
        # Before the first step, not at the first clustering, which comes days later.
        points = len(self.data.train) * self.spec.saccade.focus_num
        for num_clusters in self.spec.prototypes.num_clusters:
            if self.spec.pretrain.epochs and num_clusters > points:
                raise SpecError(
                    f"prototypes.num_clusters: {num_clusters} clusters are more than the {points} fixations of "
                    f"{len(self.data.train)} training videos x focus_num; use at most {points}"
                )

    def execute(self, checkpoint: dict[str, Any] | None) -> None:
        """All stages in order, from a checkpoint or from the start."""
        self.journal.tags(
            {
                "dataset": self.data.name,
                "dataset_digest": self.data.digest,
                "encoder": self.spec.encoder.name,
                "device": self.machine.description,
            }
        )
        if checkpoint is None:
            self._stage("baselines")
            self._baselines()
            self._draw_training_clips()
        else:
            self._go_on(checkpoint)
        self._stage("pretrain")
        self._pretrain()
        self._stage("evaluate")
        self._evaluate()
        self._stage("report")
        self._export()
        table = write_report(self.folder, self.spec, self.data, self.machine.description)
        print(f"\n{table}\n", file=sys.stderr, flush=True)
        for path in ("figures/curves.png", "summary.md"):
            if (self.folder / path).exists():
                self.journal.artifact(path)

    def _go_on(self, checkpoint: dict[str, Any]) -> None:
        # A slot of the memory belongs to a video by its position: other videos would take over their history.
        if checkpoint["dataset"] != self.data.digest:
            raise CheckpointError(
                f"{self.folder / LAST}: was trained on dataset digest {checkpoint['dataset']}, but {self.data.name} in "
                f"{self.spec.data.root} has {self.data.digest} now; restore the videos, or start a new run"
            )
        self.learner.load_state_dict(checkpoint["learner"])

    def _stage(self, name: str) -> None:
        self.journal.stage(name)
        print(f"saccade: {name}", file=sys.stderr, flush=True)

    # Retrieval -------------------------------------------------------------------------------------------------------

    def _retrieval(self, part: tuple[Video, ...], prefix: str, *, pixels: bool = False) -> Retrieval:
        """Score retrieval of `part` among the training videos and log it."""
        settings = self.spec.evaluation.retrieval
        encode = coarse_pixels if pixels else projected_encoder(self.learner.encoder, self.learner.projection)

        def encode_at_precision(clips: Tensor, masks: Tensor | None) -> Tensor:
            with self.machine.autocast():
                return encode(clips, masks)

        self.learner.train(False)
        features = [
            video_features(
                extract_features(
                    VideoClips(videos, builders.build_retrieval_clips(self.spec)),
                    encode_at_precision,
                    clip_size=self.spec.clip.size,
                    batch_size=settings.batch_size,
                    workers=self.spec.engine.workers,
                    device=self.machine.device,
                    stop=self.stop,
                    desc=f"{prefix}: {name}",
                )
            )
            for videos, name in ((self.data.train, "gallery"), (part, "queries"))
        ]
        result = retrieve(features[1], features[0], labels_of(part), labels_of(self.data.train), settings.topk)
        self.journal.metrics(result.metrics(prefix), self.learner.step)
        return result

    def _baselines(self) -> None:
        """What the score is worth: the encoder before training, and bare pixels."""
        if self.spec.evaluation.retrieval.enabled and self.spec.evaluation.retrieval.baselines:
            self._retrieval(self.data.test, "baseline/random_encoder")
            self._retrieval(self.data.test, "baseline/pixels", pixels=True)

    def _evaluate(self) -> None:
        if not self.spec.evaluation.retrieval.enabled:
            return
        if self.data.validation:
            self._retrieval(self.data.validation, "val")
        found = self._retrieval(self.data.test, "test")
        path = "figures/neighbours.png"
        draw_neighbours(
            self.folder / path,
            self.data.test,
            self.data.train,
            self.data.classes,
            found.neighbours,
            found.similarity,
        )
        self.journal.artifact(path)

    # Pre-training ----------------------------------------------------------------------------------------------------

    def _pretrain(self) -> None:
        if self.learner.step >= self.timetable.steps:
            return
        views = VideoClips(self.data.train, builders.build_training_views(self.spec))
        batches = epoch_batches(
            len(self.data.train),
            self.spec.pretrain.batch_size,
            seed=self.spec.seed,
            first_step=self.learner.step,
            last_step=self.timetable.steps,
        )
        pretrain(
            self.learner,
            builders.build_recipe(self.spec),
            self.timetable,
            make_loader(views, batches, self.spec.engine.workers),
            machine=self.machine,
            cluster=self._cluster,
            save=self._save,
            journal=self.journal,
            stop=self.stop,
        )

    def _cluster(self, epoch: int) -> tuple[Prototypes, ...]:
        """Make the prototypes after an epoch, write them down and log them."""
        chooser = builders.build_fixation_clips(self.spec)
        clips = VideoClips(self.data.train, chooser)

        def encode(views: Tensor, masks: Tensor | None) -> Tensor:
            with self.machine.autocast():
                features = self.learner.encoder(views, masks, self.spec.saccade.focus_level)
            projected: Tensor = self.learner.projection(features.float())
            return projected

        self.learner.train(False)
        features = extract_features(
            clips,
            encode,
            clip_size=self.spec.clip.size,
            batch_size=self.spec.pretrain.batch_size,
            workers=self.spec.engine.workers,
            device=self.machine.device,
            stop=self.stop,
            desc=f"clustering after epoch {epoch}",
            epoch=epoch,
        )
        prototypes = builders.fit(self.spec, features.reshape(-1, features.shape[-1]))
        folder = self.folder / "clusters" / f"epoch_{epoch:04d}"
        focus_num = self.spec.saccade.focus_num
        write_clustering(folder, prototypes, self.data.train, self.data.classes, focus_num)
        places = [
            (
                clip.start,
                fixation_box(clip.cell or 0, grid_num=self.spec.saccade.grid_num, margin_h=self.spec.saccade.margin_h),
            )
            for index, video in enumerate(self.data.train)
            for clip in chooser.clips(video, Item(epoch, index))
        ]
        draw_clusters(folder / "montage.png", prototypes[0], self.data.train, self.data.classes, focus_num, places)
        self.journal.metrics(cluster_metrics(prototypes, self.learner.prototypes), self.learner.step)
        self.journal.artifact(f"clusters/{folder.name}")
        return prototypes

    def _save(self, epoch: int) -> None:
        """Write the rolling checkpoint, and keep it where the spec says so."""
        last = self.folder / LAST
        state = {"learner": self.learner.state_dict(), "dataset": self.data.digest, "mark": self.journal.mark()}
        save_checkpoint(last, {**state, "epoch": epoch})
        if self.timetable.ends_epoch(self.learner.step) and builders.keeps(self.spec, epoch):
            kept = f"checkpoints/epoch_{epoch:04d}.pt"
            link_checkpoint(last, self.folder / kept)
            self.journal.artifact(kept)

    # Pictures and the result -----------------------------------------------------------------------------------------

    def _draw_training_clips(self) -> None:
        if not self.timetable.steps:
            return
        dataset = VideoClips(self.data.train, builders.build_training_views(self.spec))
        # Spread over the list, which is sorted by class.
        places = np.linspace(0, len(dataset) - 1, min(4, len(dataset))).astype(int)
        samples = [dataset[Item(1, int(place))] for place in places]
        clips, masks = render(samples, size=self.spec.clip.size, device=torch.device("cpu"))
        names = [self.data.train[sample.index].name for sample in samples]
        path = "figures/training_clips.png"
        draw_masked_clips(self.folder / path, names, clips, masks, self.spec.saccade.focus_num)
        self.journal.artifact(path)

    def _export(self) -> None:
        save_encoder(
            self.folder / "encoder",
            self.learner.encoder,
            name=self.spec.encoder.name,
            width=self.spec.encoder.width,
            clip_frames=self.spec.clip.frames,
            clip_size=self.spec.clip.size,
        )
        self.journal.artifact("encoder")


def _open(folder: Path) -> tuple[Journal, dict[str, Any] | None]:
    """The journal, cut to where the run goes on, and the checkpoint of that moment (None: from the start)."""
    path = folder / LAST
    checkpoint = load_checkpoint(path) if path.exists() else None
    if checkpoint is not None and not {"mark", "learner", "dataset"} <= checkpoint.keys():
        raise CheckpointError(f"{path}: not a checkpoint of a pre-training run; remove it to start over")
    mark = 0 if checkpoint is None else checkpoint["mark"]
    return Journal.open(folder / "journal.jsonl", mark=mark, attempted=attempted_offset(folder)), checkpoint


def main(argv: list[str] | None = None) -> int:
    """Run the experiment of a run folder; returns the exit code."""
    folder = Path((argv if argv is not None else sys.argv[1:])[0]).absolute()
    stop = StopRequest()
    stop.install()
    try:
        spec = read_spec(folder / "spec.yaml")
        with RunDir(folder).lock():
            journal, checkpoint = _open(folder)
            with journal:
                try:
                    Run(spec, folder, journal, stop).execute(checkpoint)
                except Stopped:
                    journal.end("stopped")
                    return 143
                journal.end("finished")
        return 0
    except SaccadeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
