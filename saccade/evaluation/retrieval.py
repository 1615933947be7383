"""Nearest-neighbour retrieval: test videos look for their class among the training videos, by cosine."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import faiss
import numpy as np
import numpy.typing as npt
import torch.nn.functional as F
from torch import Tensor

from saccade.datasets.layout import Video
from saccade.errors import SpecError
from saccade.metrics import hit_at_k

__all__ = [
    "PIXEL_GRID",
    "Retrieval",
    "check_gallery",
    "coarse_pixels",
    "labels_of",
    "projected_encoder",
    "retrieve",
    "video_features",
]

Floats = npt.NDArray[np.float32]

PIXEL_GRID = 4


@dataclass(frozen=True)
class Retrieval:
    """Result of a retrieval: scores, and the neighbours they come from."""

    hits: dict[int, float]
    """hit@k for each k, in [0, 1]."""
    neighbours: npt.NDArray[np.int64]
    """Positions in the gallery, nearest first, `[Q, max k]`."""
    similarity: Floats
    """Their cosines, `[Q, max k]`."""
    queries: Floats
    """What was compared: normalised features, `[Q, D]`."""
    gallery: Floats
    """With these, `[G, D]`."""

    def metrics(self, prefix: str) -> dict[str, float]:
        """Metric names and values, such as test/retrieval_top1."""
        return {f"{prefix}/retrieval_top{k}": value for k, value in self.hits.items()}


def check_gallery(topk: Sequence[int], gallery: Sequence[Video]) -> None:
    """Refuse a k that the gallery cannot give.

    Raises:
        SpecError: When a k is above the number of training videos.
    """
    too_large = [k for k in topk if k > len(gallery)]
    if too_large:
        raise SpecError(
            f"evaluation.retrieval.topk: {too_large[0]} neighbours cannot be retrieved among {len(gallery)} training "
            f"videos; use at most {len(gallery)}"
        )


def video_features(clip_features: Floats) -> Floats:
    """One normalised feature a video: the mean of its clips' `[N, V, D]`, `[N, D]`."""
    mean = clip_features.mean(axis=1)
    length = np.linalg.norm(mean, axis=1, keepdims=True)
    return np.ascontiguousarray(mean / np.maximum(length, 1e-12), np.float32)


def retrieve(
    queries: Floats,
    gallery: Floats,
    query_labels: npt.NDArray[np.int64],
    gallery_labels: npt.NDArray[np.int64],
    topk: Sequence[int],
) -> Retrieval:
    """Search the gallery for each query by cosine (exactly, through faiss) and count the hits.

    Args:
        queries: Normalised features, `[Q, D]`.
        gallery: Normalised features, `[G, D]`.
        query_labels: Classes, `[Q]`.
        gallery_labels: Classes, `[G]`.
        topk: Values of k, each at most G.
    """
    index = faiss.IndexFlatIP(gallery.shape[1])
    index.add(gallery)
    similarity, neighbours = index.search(queries, max(topk))
    hits = hit_at_k(gallery_labels[neighbours], query_labels, topk)
    return Retrieval(hits, neighbours, similarity, queries, gallery)


def coarse_pixels(clips: Tensor, masks: Tensor | None = None) -> Tensor:
    """Features that see the scene and no motion: the clip's middle frame on 4 x 4 px, `[M, 48]`.

    What an encoder scores above this is not owed to backgrounds alike.
    """
    return F.adaptive_avg_pool2d(clips[:, :, clips.shape[2] // 2], PIXEL_GRID).flatten(1)


def projected_encoder(
    encoder: Callable[[Tensor], Tensor], projection: Callable[[Tensor], Tensor] | None
) -> Callable[[Tensor, Tensor | None], Tensor]:
    """`encode` for `extract_features`: normalised features of clips, projected if there is a projection; no masks."""

    def encode(clips: Tensor, masks: Tensor | None) -> Tensor:
        features = encoder(clips).float()
        return projection(features) if projection is not None else F.normalize(features, dim=1)

    return encode


def labels_of(videos: Sequence[Video]) -> npt.NDArray[np.int64]:
    """Classes of videos, `[N]`."""
    return np.array([video.label for video in videos], np.int64)
