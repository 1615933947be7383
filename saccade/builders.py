"""From a spec to the objects of a run. Only here and in `runner` does code know what a spec is."""

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from saccade.datasets.clips import EvenClips, FirstViews, TrainingViews
from saccade.datasets.layout import Dataset, load_dataset
from saccade.engine.device import Machine
from saccade.errors import SpecError
from saccade.learner import Learner, initial_memory
from saccade.models.encoder import build_encoder
from saccade.models.heads import Projection, PropagationHead
from saccade.pretrain import Recipe, Timetable
from saccade.prototypes import Prototypes, fit_prototypes
from saccade.rng import derive_seed
from saccade.schedules import clusters_after, cosine_rate, keeps_checkpoint, step_rate
from saccade.spec import Spec
from saccade.spec_reader import expand_env
from saccade.transforms import Augmentation

__all__ = [
    "build_dataset",
    "build_fixation_clips",
    "build_learner",
    "build_recipe",
    "build_retrieval_clips",
    "build_timetable",
    "build_training_views",
    "fit",
    "keeps",
]


def build_dataset(spec: Spec) -> Dataset:
    """Read and check the dataset on disk."""
    return load_dataset(
        expand_env(spec.data.root, "data.root"),
        spec.data.dataset,
        split=spec.data.split,
        grid_num=spec.saccade.grid_num,
        scanpaths=spec.saccade.source == "scanpath",
        only_present=spec.data.only_present,
        exclude=spec.data.exclude,
        validation=spec.data.validation,
        min_frames=spec.clip.frames,
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


def build_retrieval_clips(spec: Spec) -> EvenClips:
    """The clips of an evaluation."""
    return EvenClips(clip_frames=spec.clip.frames, num_clips=spec.evaluation.retrieval.clips, crop=spec.clip.eval_crop)


def build_learner(spec: Spec, num_videos: int, machine: Machine) -> Learner:
    """Networks, memory and optimiser as they are before the first step, the same on every device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(spec.seed, "weights"))
        encoder = build_encoder(spec.encoder.name, width=spec.encoder.width)
        projection = Projection(encoder.feature_dim, spec.contrast.projection_dim)
        channels = encoder.level_channels[spec.consistency.level]
        propagation = PropagationHead(channels) if spec.consistency.weight else None
    memory = initial_memory(
        num_videos * spec.saccade.focus_num,
        encoder.feature_dim,
        torch.Generator().manual_seed(derive_seed(spec.seed, "memory")),
    )
    for module in (encoder, projection, propagation):
        if module is not None:
            module.to(machine.device)
    # Channels last: convolutions are about 1.4 times faster on CPUs, and what tensor cores want.
    encoder.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    networks = [*encoder.parameters(), *(propagation.parameters() if propagation else ())]
    optimizer = torch.optim.SGD(
        [{"params": networks}, {"params": list(projection.parameters())}],
        lr=spec.pretrain.learning_rate,
        momentum=spec.pretrain.momentum,
        weight_decay=spec.pretrain.weight_decay,
        fused=machine.device.type == "cuda",
    )
    return Learner(encoder, projection, propagation, memory, optimizer, machine.device)


def build_recipe(spec: Spec) -> Recipe:
    """Numbers of the losses."""
    return Recipe(
        seed=spec.seed,
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


def build_timetable(spec: Spec, num_videos: int) -> Timetable:
    """What happens when, for a training list of `num_videos`.

    Raises:
        SpecError: When there are not enough videos for one batch.
    """
    batch, settings, epochs = spec.pretrain.batch_size, spec.pretrain, spec.pretrain.epochs
    if batch > num_videos:
        raise SpecError(
            f"pretrain.batch_size: {batch} videos do not fit in a training list of {num_videos}; "
            f"use at most {num_videos}"
        )
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

    def saves(epoch: int) -> bool:
        return epoch % spec.checkpoint.every_epochs == 0 or keeps(spec, epoch)

    return Timetable(
        epochs=epochs,
        steps_per_epoch=num_videos // batch,
        rate=rate,
        projection_lr_ratio=settings.projection_lr_ratio,
        clusters_after=clusters,
        log_every_steps=spec.tracking.log_every_steps,
        saves_after_epoch=saves,
        save_every_steps=spec.checkpoint.every_steps,
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


def fit(spec: Spec, features: npt.NDArray[np.float32]) -> tuple[Prototypes, ...]:
    """One clustering of the features of all fixations `[N * F, D]` for each entry of `num_clusters`."""
    settings = spec.prototypes
    return tuple(
        fit_prototypes(
            features,
            num_clusters,
            seed=settings.seed + position,
            temperature=spec.contrast.temperature,
            iterations=settings.iterations,
            restarts=settings.restarts,
            max_points_per_centroid=settings.max_points_per_centroid,
            min_points_per_centroid=settings.min_points_per_centroid,
        )
        for position, num_clusters in enumerate(settings.num_clusters)
    )
