"""What a colleague would say to a spec and its videos: each line tells what is the case, then what to do about it.

What is impossible is an error of the spec's own checks; here stands what is possible and seldom meant.
"""

import re
from collections.abc import Iterator

from saccade.datasets.layout import Dataset, Video
from saccade.gaze.fixations import usable_length, view_starts
from saccade.plan.forecast import Plan
from saccade.spec import ClassifierSpec, Spec

__all__ = ["advise_on_data", "advise_on_schedule"]

_FEW_POINTS = 10
"""Points of a cluster below which it describes single clips; faiss itself asks for 39."""
_NOTICEABLE = 0.05
_MANY = 0.2
_LATE = 0.05
"""Part of the training that is hardly worth preparing for."""
_COARSE_VIDEOS = 100
_NAMED = 5
_GROUP = re.compile(r"_g\d+(?=_|$)")


def advise_on_schedule(spec: Spec, plan: Plan) -> Iterator[str]:
    """What comes too late, too seldom or never."""
    epochs, steps = plan.epochs, plan.steps
    if not epochs:
        return
    yield from _advise_on_prototypes(spec, plan)
    last = max(spec.pretrain.decay_epochs, default=0)
    if spec.pretrain.schedule == "step" and epochs - last < _LATE * epochs and last:
        yield f"pretrain.decay_epochs: the last decay, after epoch {last}, leaves {epochs - last} of {epochs} epochs"
    if spec.pretrain.schedule == "cosine" and spec.pretrain.decay_epochs != (90, 180, 240):
        yield "pretrain.decay_epochs: not used by schedule cosine; remove them, or set schedule to step"
    if spec.tracking.log_every_steps > max(1, steps / _FEW_POINTS):
        points = -(-steps // spec.tracking.log_every_steps)
        yield (
            f"tracking.log_every_steps: {spec.tracking.log_every_steps} of {steps} steps give curves of "
            f"{points} points; "
            "lower it"
        )
    checkpoint = spec.checkpoint
    if checkpoint.every_epochs > epochs and (checkpoint.every_steps is None or checkpoint.every_steps > steps):
        yield (
            f"checkpoint.every_epochs: {checkpoint.every_epochs} is beyond the last epoch, {epochs}: a run that is "
            "killed begins anew; lower it"
        )
    elif checkpoint.every_steps is not None and checkpoint.every_steps > steps:
        yield f"checkpoint.every_steps: {checkpoint.every_steps} is beyond the last step, {steps}; lower or remove it"
    every = spec.evaluation.retrieval.validate_every_epochs
    if every is not None and every >= epochs:
        yield (
            f"evaluation.retrieval.validate_every_epochs: {every} is not before the last epoch, {epochs}: only "
            "the end is "
            "validated, and there is nothing to choose the best from; lower it"
        )
    for name, settings in _classifiers(spec):
        if settings.test_every_epochs is not None and settings.test_every_epochs >= settings.epochs:
            yield f"evaluation.{name}.test_every_epochs: not before the last epoch, {settings.epochs}; remove it"


def _advise_on_prototypes(spec: Spec, plan: Plan) -> Iterator[str]:
    settings, epochs = spec.prototypes, plan.epochs
    if not plan.clusterings:
        return
    if not settings.weight:
        yield (
            f"prototypes.weight: 0, so {len(plan.clusterings)} clusterings are made for nothing; set "
            "prototypes.num_clusters to []"
        )
    used = epochs - plan.clusterings[0]
    if used < _LATE * epochs:
        yield (
            f"prototypes.warmup_epoch: the first clustering, after epoch {plan.clusterings[0]}, leaves {used} "
            f"of {epochs} "
            "epochs to prototypes; lower it"
        )
    if settings.every_epochs > 1 and len(plan.clusterings) == 1 and used > settings.every_epochs:
        yield f"prototypes.every_epochs: {settings.every_epochs} makes a single clustering; lower it"
    points = plan.measured.videos["train"] * spec.saccade.focus_num
    for num_clusters in sorted(set(settings.num_clusters)):
        members = points / num_clusters
        if members < max(_FEW_POINTS, settings.min_points_per_centroid):
            yield (
                f"prototypes.num_clusters: {num_clusters} clusters of {points} fixations "
                f"({plan.measured.videos['train']} videos x {spec.saccade.focus_num}) are {members:.1f} a "
                "cluster; use at "
                f"most {max(1, points // max(_FEW_POINTS, settings.min_points_per_centroid))}"
            )
        elif members > settings.max_points_per_centroid:
            part = 100 * settings.max_points_per_centroid / members
            yield f"prototypes.max_points_per_centroid: k-means sees {part:.0f} % of the fixations; raise it to see all"


def advise_on_data(spec: Spec, data: Dataset, plan: Plan) -> Iterator[str]:
    """What the videos do not give."""
    train = len(data.train)
    if plan.epochs:
        yield from _advise_on_batches(spec, plan)
        yield from _advise_on_fixations(spec, data)
    else:
        yield from ()
    if spec.data.only_present:
        yield (
            f"data.only_present: scores will hold for the {train} training and {len(data.test)} test videos that are "
            "here, not for the official split"
        )
    yield from _advise_on_scores(spec, data)
    height, width = plan.measured.frame_px
    if spec.clip.eval_crop > min(height, width):
        yield (
            f"clip.eval_crop: {spec.clip.eval_crop} px, but frames are {width} x {height}: their whole short side is "
            f"taken; set at most {min(height, width)}"
        )
    if spec.clip.size > min(height, width):
        yield f"clip.size: {spec.clip.size} px are more than frames of {width} x {height} have; they are enlarged"


def _advise_on_batches(spec: Spec, plan: Plan) -> Iterator[str]:
    train, batch = plan.measured.videos["train"], spec.pretrain.batch_size
    dropped = train - plan.steps_per_epoch * batch
    if dropped > _NOTICEABLE * train:
        fitting = max(size for size in range(2, batch + 1) if train % size <= _NOTICEABLE * train) if train > 2 else 2
        yield (
            f"pretrain.batch_size: {dropped} of {train} training videos are left out of every epoch (others "
            "each time), "
            f"the last batch not being full; {fitting} would leave out {train % fitting}"
        )
    if plan.steps_per_epoch < 5:
        yield (
            f"pretrain.batch_size: {batch} makes {plan.steps_per_epoch} steps an epoch, and all schedules count "
            "epochs; "
            "lower it, or give more epochs"
        )
    slots = train * spec.saccade.focus_num
    if spec.contrast.num_negatives > slots:
        yield (
            f"contrast.num_negatives: {spec.contrast.num_negatives} are drawn with replacement from {slots} "
            "memory slots, "
            f"so that each comes {spec.contrast.num_negatives / slots:.1f} times, a clip's own too; use at most {slots}"
        )


def _advise_on_fixations(spec: Spec, data: Dataset) -> Iterator[str]:
    saccade, train = spec.saccade, data.train
    same = [video for video in train if _views_coincide(video, spec.clip.frames)]
    if len(same) > _NOTICEABLE * len(train):
        yield (
            f"clip.frames: {len(same)} of {len(train)} training videos are hardly longer than a clip of "
            f"{spec.clip.frames} frames, so that both views of a fixation are the same frames ({_some(same)}); "
            "shorten it, or exclude them"
        )
    if saccade.source == "random":
        return
    short = [video for video in train if _distinct(video, saccade.focus_num, saccade.deduplicate) < saccade.focus_num]
    if len(short) > _MANY * len(train):
        yield (
            f"saccade.focus_num: {len(short)} of {len(train)} training videos have fewer than {saccade.focus_num} "
            f"fixations{' in different cells' if saccade.deduplicate else ''} at their beginning; the rest is drawn at "
            "random"
        )


def _views_coincide(video: Video, clip_frames: int) -> bool:
    length = usable_length(video.frames)
    starts = [view_starts(fixation, length=length, clip_frames=clip_frames) for fixation in video.fixations]
    return length == clip_frames or (bool(starts) and all(first == second for first, second in starts))


def _distinct(video: Video, focus_num: int, deduplicate: bool) -> int:
    rows = video.fixations[:focus_num]
    return len({row.cell for row in rows}) if deduplicate else len(rows)


def _advise_on_scores(spec: Spec, data: Dataset) -> Iterator[str]:
    retrieval, classifiers = spec.evaluation.retrieval, list(_classifiers(spec))
    if not retrieval.enabled and not classifiers:
        yield "evaluation: nothing is scored; switch on retrieval, linear_probe or finetune"
        return
    absent = sorted({video.label for video in data.test} - {video.label for video in data.train})
    if absent:
        names = ", ".join(data.classes[label] for label in absent[:_NAMED]) + (", ..." if len(absent) > _NAMED else "")
        lost = sum(video.label in absent for video in data.test)
        yield (
            f"data: {len(absent)} classes have test videos and no training video ({names}), so {lost} of "
            f"{len(data.test)} "
            "test videos cannot be right"
        )
    if len(data.test) < _COARSE_VIDEOS:
        yield (
            f"data: with {len(data.test)} test videos one video is {100 / len(data.test):.1f} points of a "
            "score; compare "
            "several seeds before you believe a difference"
        )
    large = [k for k in retrieval.topk if k > len(data.train) / 4]
    if retrieval.enabled and large:
        yield (
            f"evaluation.retrieval.topk: {large[0]} of {len(data.train)} training videos is more than a quarter "
            "of them, "
            "which says little; leave it out"
        )
    crowded = [v for v in data.test if usable_length(v.frames) - spec.clip.frames + 1 < retrieval.clips]
    if retrieval.enabled and len(crowded) > _NOTICEABLE * len(data.test):
        yield (
            f"evaluation.retrieval.clips: {len(crowded)} of {len(data.test)} test videos are too short for "
            f"{retrieval.clips} different clips ({_some(crowded)}); fewer do as well"
        )
    if spec.evaluation.test_jitter_probability:
        yield (
            "evaluation.test_jitter_probability: test clips are coloured at random, which blurs the scores; 0 does not"
        )
    yield from _advise_on_selection(spec, data)


def _advise_on_selection(spec: Spec, data: Dataset) -> Iterator[str]:
    for name, settings in _classifiers(spec):
        if settings.test_every_epochs is not None:
            yield (
                f"evaluation.{name}.test_every_epochs: the best epoch is chosen on the test videos; report the "
                "last one's "
                f"score, test/{name}_top1, and the other by its name, best/test_selected_{name}_top1"
            )
    groups = {group for video in data.train if (group := _group(video)) is not None}
    shared = [video for video in data.validation if _group(video) in groups]
    if shared:
        yield (
            f"data.validation: {len(shared)} of {len(data.validation)} held-out videos have videos of their own group "
            f"(the same scene) in training ({_some(shared)}); hold out whole groups, such as '*_g08_*'"
        )


def _group(video: Video) -> str | None:
    """Class and group of a video of UCF101, whose videos of one group show one scene."""
    found = _GROUP.search(video.name)
    return video.name[: found.end()] if found else None


def _classifiers(spec: Spec) -> Iterator[tuple[str, ClassifierSpec]]:
    for name, settings in (("linear_probe", spec.evaluation.linear_probe), ("finetune", spec.evaluation.finetune)):
        if settings.enabled:
            yield name, settings


def _some(videos: list[Video]) -> str:
    return ", ".join(video.name for video in videos[:2]) + (", ..." if len(videos) > 2 else "")
