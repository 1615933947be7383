"""A learner, a batch and clusterings as small as the tests of pre-training can use."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from saccade import builders
from saccade.engine.device import Machine
from saccade.learner import Learner
from saccade.pretrain import Recipe
from saccade.prototypes import Prototypes
from saccade.spec import Spec
from saccade.spec_reader import parse_spec

CPU = Machine(torch.device("cpu"), "fp32")
B, F, T, SIZE = 3, 2, 8, 32
"""Videos in a batch, fixations of each, frames and side of a clip."""
VIDEOS = 7


def small_spec(*overrides: str) -> Spec:
    text = f"""
name: small
seed: 11
clip: {{frames: {T}, size: {SIZE}}}
saccade: {{focus_num: {F}}}
encoder: {{width: 4}}
contrast: {{num_negatives: 16, projection_dim: 8}}
consistency: {{level: 4, power: 2.0, weight: 0.7}}
prototypes: {{num_clusters: [5, 6], warmup_epoch: 1, every_epochs: 1, weight: 0.3}}
pretrain: {{epochs: 3, batch_size: {B}, schedule: cosine}}
"""
    return parse_spec(text, "small.yaml", overrides)


def made(*overrides: str, videos: int = VIDEOS, step: int = 4) -> tuple[Learner, Recipe]:
    spec = small_spec(*overrides)
    learner = builders.build_learner(spec, videos, CPU)
    learner.step = step
    learner.train()
    return learner, builders.build_recipe(spec)


def batch(videos: Sequence[int] = (5, 0, 3), seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    count = len(videos) * 2 * F
    clips = torch.randn(count, 3, T, SIZE, SIZE, generator=generator).contiguous(memory_format=torch.channels_last_3d)
    masks = (torch.rand(count, 1, SIZE, SIZE, generator=generator) > 0.5).float()
    return clips, masks, torch.tensor(videos)


def clusterings(num_clusters: Sequence[int] = (5, 6), slots: int = VIDEOS * F) -> list[Prototypes]:
    rng = np.random.default_rng(1)
    return [
        Prototypes(
            assignment=rng.integers(k, size=slots),
            distance=rng.uniform(size=slots).astype(np.float32),
            centroids=rng.normal(size=(k, 8)).astype(np.float32),
            density=rng.uniform(0.05, 0.1, size=k).astype(np.float32),
            density_mean=1.0,
            objective=2.0,
        )
        for k in num_clusters
    ]
