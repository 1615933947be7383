"""From a spec to the objects of a run. Only here and in `runner` does code know what a spec is."""

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from saccade.datasets.clips import EvenClips, FirstViews, RandomClip, TrainingViews
from saccade.datasets.layout import Dataset, load_dataset
from saccade.engine.batch_norm import joined_batch_norm
from saccade.engine.device import Machine
from saccade.engine.optimizers import SGD, Adam
from saccade.errors import SpecError
from saccade.learner import Learner
from saccade.memory_bank import MemoryBank
from saccade.models import conv_cpu
from saccade.models.convolution import use_own_convolutions
from saccade.models.encoder import Encoder, build_encoder
from saccade.models.heads import Projection, PropagationHead
from saccade.pretrain import PretrainTimetable, Recipe
from saccade.prototypes import Prototypes, fit_prototypes
from saccade.rng import derive_seed
from saccade.schedules import clusters_after, cosine_rate, keeps_checkpoint, step_rate
from saccade.spec import Spec
from saccade.spec_reader import expand_env
from saccade.transforms import Augmentation

__all__ = [
    "build_dataset",
    "build_even_clips",
    "build_fixation_clips",
    "build_learner",
    "build_networks",
    "build_random_clip",
    "build_recipe",
    "build_timetable",
    "build_training_views",
    "fit",
    "keeps",
]


def build_dataset(spec: Spec, split: int | None = None) -> Dataset:
    """Read and check the dataset on disk, or another split of it, of which only evaluations make use."""
    return load_dataset(
        expand_env(spec.data.root, "data.root"),
        spec.data.dataset,
        split=spec.data.split if split is None else split,
        grid_num=spec.saccade.grid_num,
        scanpaths=spec.saccade.source == "scanpath" and spec.pretrain.epochs > 0 and split is None,
        only_present=spec.data.only_present,
        exclude=spec.data.exclude,
        validation=spec.data.validation,
        min_frames=spec.clip.frames,
        store=spec.data.store,
        show_progress=True,
    )


def _fixation_settings(spec: Spec) -> dict[str, Any]:
    """What training and clustering choose their fixations by."""
    return {
        "seed": spec.seed,
        "clip_frames": spec.clip.frames,
        "focus_num": spec.saccade.focus_num,
        "grid_num": spec.saccade.grid_num,
        "deduplicate": spec.saccade.deduplicate,
        "margin_h": spec.saccade.margin_h,
    }


def build_training_views(spec: Spec) -> TrainingViews:
    """The clips of a training step."""
    return TrainingViews(**_fixation_settings(spec), augmentation=Augmentation(**spec.augmentation.model_dump()))


def build_fixation_clips(spec: Spec) -> FirstViews:
    """The clips of a clustering."""
    return FirstViews(**_fixation_settings(spec), crop=spec.clip.eval_crop)


def build_even_clips(spec: Spec, num_clips: int) -> EvenClips:
    """The clips of an evaluation, `num_clips` a video."""
    return EvenClips(
        clip_frames=spec.clip.frames,
        num_clips=num_clips,
        crop=spec.clip.eval_crop,
        seed=spec.seed,
        jitter_probability=spec.evaluation.test_jitter_probability,
    )


def build_random_clip(spec: Spec, seed: int) -> RandomClip:
    """The clip that a classifier is trained on."""
    return RandomClip(
        seed=seed, clip_frames=spec.clip.frames, augmentation=Augmentation(**spec.augmentation.model_dump())
    )


def build_networks(spec: Spec, machine: Machine) -> tuple[Encoder, Projection, PropagationHead | None]:
    """Encoder and heads with their random weights, the same on every device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(spec.seed, "weights"))
        encoder = build_encoder(spec.encoder.name, width=spec.encoder.width)
        projection = Projection(encoder.feature_dim, spec.contrast.projection_dim)
        channels = encoder.level_channels[spec.consistency.level]
        propagation = PropagationHead(channels) if spec.consistency.weight else None
    for module in (encoder, projection, propagation):
        if module is not None:
            module.to(machine.device)
    # Channels last: convolutions are about 1.4 times faster on CPUs, and what tensor cores want.
    encoder.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    if machine.own_convolutions and conv_cpu.available():
        use_own_convolutions(encoder)
    return encoder, projection, propagation


def build_learner(spec: Spec, num_videos: int, machine: Machine) -> Learner:
    """Networks, memory and optimiser as they are before the first step, the same on every device."""
    encoder, projection, propagation = build_networks(spec, machine)
    memory = MemoryBank(
        num_videos * spec.saccade.focus_num if spec.pretrain.epochs else 0,
        encoder.feature_dim,
        torch.Generator().manual_seed(derive_seed(spec.seed, "memory")),
        machine.device,
        split=spec.engine.split_memory,
    )
    encoder = joined_batch_norm(encoder, machine.device)
    if machine.compiled:
        # Part by part: less to compile, and a copy of the encoder (fine-tuning) is not a compiled one. Not dynamic: out
        # of stages of one code and different shapes PyTorch would conclude that shapes change, and compile for all;
        # which takes several times as long, and fails with some.
        for part in (encoder.stem, *encoder.stages):
            # The mode is PyTorch's name for CUDA graphs.
            part.compile(dynamic=False, mode="reduce-overhead" if machine.graphs else None)
    networks = [*encoder.parameters(), *(propagation.parameters() if propagation else ())]
    optimizer = _build_optimizer(spec, networks, list(projection.parameters()))
    return Learner(encoder, projection, propagation, memory, optimizer, machine.device)


def _build_optimizer(spec: Spec, networks: list[nn.Parameter], projection: list[nn.Parameter]) -> torch.optim.Optimizer:
    settings, groups = spec.pretrain, [{"params": networks}, {"params": projection}]
    rate, decay = settings.learning_rate, settings.weight_decay
    # Fused: one pass over each tensor, and none where the loss is not finite (`LossWatch`).
    if settings.optimizer == "adam":
        return Adam(groups, lr=rate, weight_decay=decay, fused=True)
    return SGD(groups, lr=rate, momentum=settings.momentum, weight_decay=decay, fused=True)


def build_recipe(spec: Spec) -> Recipe:
    """Numbers of the losses."""
    return Recipe(
        seed=spec.seed,
        accumulation_steps=spec.pretrain.accumulation_steps,
        clip_size=spec.clip.size,
        focus_num=spec.saccade.focus_num,
        focus_level=spec.saccade.focus_level,
        num_negatives=spec.contrast.num_negatives,
        temperature=spec.contrast.temperature,
        memory_momentum=spec.contrast.memory_momentum,
        consistency_weight=spec.consistency.weight,
        consistency_level=spec.consistency.level,
        consistency_power=spec.consistency.power,
        consistency_clamp=spec.consistency.clamp,
        consistency_distance=spec.consistency.distance,
        prototype_weight=spec.prototypes.weight,
    )


def build_timetable(spec: Spec, num_videos: int) -> PretrainTimetable:
    """What happens when, for a training list of `num_videos`.

    Raises:
        SpecError: When there are not enough videos for one batch, or not enough fixations for the prototypes.
    """
    batch, settings, epochs = spec.pretrain.batch_size, spec.pretrain, spec.pretrain.epochs
    if epochs and batch > num_videos:
        raise SpecError(
            f"pretrain.batch_size: {batch} videos do not fit in a training list of {num_videos}; "
            f"use at most {num_videos}"
        )
    _check_clusters(spec, num_videos)
    if settings.schedule == "cosine":
        rate = partial(cosine_rate, base=settings.learning_rate, epochs=max(epochs, 1))
    else:
        rate = partial(
            step_rate,
            base=settings.learning_rate,
            decay_epochs=settings.decay_epochs,
            decay_rate=settings.decay_rate,
        )
    prototypes = spec.prototypes

    def clusters(epoch: int) -> bool:
        return bool(prototypes.num_clusters) and clusters_after(
            epoch, epochs=epochs, warmup_epoch=prototypes.warmup_epoch, every_epochs=prototypes.every_epochs
        )

    every = spec.evaluation.retrieval.validate_every_epochs

    def validates(epoch: int) -> bool:
        return every is not None and epoch % every == 0 and epoch < epochs

    def saves(epoch: int) -> bool:
        # Before a validation too, whose best becomes a checkpoint.
        return epoch % spec.checkpoint.every_epochs == 0 or keeps(spec, epoch) or validates(epoch)

    return PretrainTimetable(
        epochs=epochs,
        steps_per_epoch=num_videos // batch,
        rate=rate,
        projection_lr_ratio=settings.projection_lr_ratio,
        clusters_after=clusters,
        validates_after=validates,
        log_every_steps=spec.tracking.log_every_steps,
        saves_after_epoch=saves,
        save_every_steps=spec.checkpoint.every_steps,
    )


def _check_clusters(spec: Spec, num_videos: int) -> None:
    # Before the first step, not at the first clustering, which comes days later.
    points = num_videos * spec.saccade.focus_num
    for num_clusters in spec.prototypes.num_clusters:
        if spec.pretrain.epochs and num_clusters > points:
            raise SpecError(
                f"prototypes.num_clusters: {num_clusters} clusters are more than the {points} fixations of "
                f"{num_videos} training videos x focus_num; use at most {points}"
            )


def keeps(spec: Spec, epoch: int) -> bool:
    """Whether the checkpoint of this epoch is kept beside the rolling one."""
    return keeps_checkpoint(
        epoch,
        epochs=spec.pretrain.epochs,
        keep_every_epochs=spec.checkpoint.keep_every_epochs,
        final_epochs=spec.checkpoint.final_epochs,
        keep_every_final_epochs=spec.checkpoint.keep_every_final_epochs,
    )


def fit(spec: Spec, features: npt.NDArray[np.float32], device: torch.device) -> tuple[Prototypes, ...]:
    """One clustering of the features of all fixations `[N * F, D]` for each of `num_clusters`, made on `device`."""
    settings = spec.prototypes
    return tuple(
        fit_prototypes(
            features,
            num_clusters,
            seed=settings.seed + position,
            temperature=spec.contrast.temperature,
            seeding=settings.seeding,
            iterations=settings.iterations,
            restarts=settings.restarts,
            max_points_per_centroid=settings.max_points_per_centroid,
            min_points_per_centroid=settings.min_points_per_centroid,
            device=device,
        )
        for position, num_clusters in enumerate(settings.num_clusters)
    )
