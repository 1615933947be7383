"""Retrieval against worked numbers and a slow search, and the features it searches among."""

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from saccade.datasets.clips import EvenClips, Item, VideoClips
from saccade.datasets.layout import Video
from saccade.datasets.render import render
from saccade.engine.device import Machine
from saccade.engine.stop import Stopped, StopRequest
from saccade.errors import SpecError
from saccade.evaluation.retrieval import (
    check_gallery,
    coarse_pixels,
    labels_of,
    projected_encoder,
    retrieve,
    video_features,
)
from saccade.features import extract_features
from saccade.models.encoder import build_encoder
from saccade.models.heads import Projection


def at(*degrees: float) -> np.ndarray:
    """Unit vectors of the plane, float32 `[N, 2]`."""
    return np.array([(math.cos(math.radians(d)), math.sin(math.radians(d))) for d in degrees], np.float32)


class TestRetrieve:
    def test_by_hand(self) -> None:
        # Gallery at 0, 40, 90 and 180 degrees, of classes 0, 1, 0, 2.
        # Query at 10: nearest are 0, 40, 90. At 100: 90, 40, 180. At 190: 180, 90, 40.
        found = retrieve(at(10, 100, 190), at(0, 40, 90, 180), np.array([1, 2, 2]), np.array([0, 1, 0, 2]), [1, 2, 3])
        assert found.neighbours.tolist() == [[0, 1, 2], [2, 1, 3], [3, 2, 1]]
        # Query 1 finds class 1 second, query 2 class 2 third, query 3 class 2 first.
        assert found.hits == {1: pytest.approx(1 / 3), 2: pytest.approx(2 / 3), 3: 1.0}
        np.testing.assert_allclose(found.similarity[0], [math.cos(math.radians(d)) for d in (10, 30, 80)], atol=1e-6)
        assert found.metrics("test") == {
            "test/retrieval_top1": pytest.approx(1 / 3),
            "test/retrieval_top2": pytest.approx(2 / 3),
            "test/retrieval_top3": 1.0,
        }

    def test_equals_a_slow_search(self) -> None:
        rng = np.random.default_rng(0)
        queries, gallery = (video_features(rng.normal(size=(n, 3, 16)).astype(np.float32)) for n in (40, 60))
        query_labels, gallery_labels = rng.integers(7, size=40), rng.integers(7, size=60)
        ks = [1, 5, 10, 20, 50]
        found = retrieve(queries, gallery, query_labels, gallery_labels, ks)
        hits = dict.fromkeys(ks, 0)
        for q in range(40):
            cosines = [
                float(np.dot(queries[q].astype(float), g) / np.linalg.norm(queries[q]) / np.linalg.norm(g))
                for g in gallery.astype(float)
            ]
            order = sorted(range(60), key=lambda g: -cosines[g])
            assert found.neighbours[q].tolist() == order[:50]
            np.testing.assert_allclose(found.similarity[q], [cosines[g] for g in order[:50]], atol=1e-5)
            for k in ks:
                hits[k] += any(gallery_labels[g] == query_labels[q] for g in order[:k])
        assert found.hits == {k: pytest.approx(count / 40) for k, count in hits.items()}

    def test_the_gallery_must_hold_the_largest_k(self) -> None:
        gallery = [Video("v", 0, Path(), 20, ())] * 10
        check_gallery([1, 5, 10], gallery)
        with pytest.raises(SpecError) as caught:
            check_gallery([1, 5, 11, 20], gallery)
        assert str(caught.value) == (
            "evaluation.retrieval.topk: 11 neighbours cannot be retrieved among 10 training videos; use at most 10"
        )

    def test_labels(self) -> None:
        labels = labels_of([Video("v", label, Path(), 20, ()) for label in (3, 0, 3)])
        assert labels.dtype == np.int64
        assert labels.tolist() == [3, 0, 3]


class TestFeatures:
    def test_the_feature_of_a_video_is_the_normalised_mean_of_its_clips(self) -> None:
        clips = np.array([[[3.0, 0.0], [0.0, 4.0], [3.0, 4.0]], [[0.0, -2.0], [0.0, -4.0], [0.0, 0.0]]], np.float32)
        # Means (2, 8/3) and (0, -2): lengths 10/3 and 2.
        features = video_features(clips)
        np.testing.assert_allclose(features, [[0.6, 0.8], [0.0, -1.0]], atol=1e-7)
        assert features.dtype == np.float32
        assert features.flags.c_contiguous

    def test_a_video_without_direction_stays_finite(self) -> None:
        assert video_features(np.zeros((1, 4, 3), np.float32)).tolist() == [[0.0, 0.0, 0.0]]

    def test_coarse_pixels_by_hand(self) -> None:
        # Three frames of 8 x 8 px: red is 10 * row of the 4 x 4 grid in the middle one, green the column of the pixel,
        # blue is 1 in one pixel of the last cell. The frames around are of other values, which must not show.
        clip = torch.full((1, 3, 3, 8, 8), 50.0)
        clip[:, :, 1] = 0
        for y in range(8):
            for x in range(8):
                clip[0, 0, 1, y, x] = 10 * (y // 2)
                clip[0, 1, 1, y, x] = x
        clip[0, 2, 1, 7, 7] = 1
        pixels = coarse_pixels(clip).view(3, 4, 4)
        assert pixels[0].tolist() == [[10.0 * row] * 4 for row in range(4)]
        assert pixels[1].tolist() == [[0.5, 2.5, 4.5, 6.5]] * 4
        assert pixels[2].flatten().tolist() == [0.0] * 15 + [0.25]

    def test_projected_features_have_length_one_and_ignore_masks(self) -> None:
        torch.manual_seed(0)
        encoder, projection = build_encoder("r3d", width=4).eval(), Projection(32, 8)
        encode = projected_encoder(encoder, projection)
        clips = torch.randn(2, 3, 4, 16, 16)
        with torch.no_grad():
            features = encode(clips, None)
            weight, bias = projection.linear.weight, projection.linear.bias
            pooled = encoder(clips)
            for feature, x in zip(features, pooled, strict=True):
                y = weight @ x + bias
                torch.testing.assert_close(feature, y / y.norm(), rtol=1e-5, atol=1e-6)
            assert torch.equal(encode(clips, torch.ones(2, 1, 16, 16)), features)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Video]:
    """Five videos of smooth noise, of different lengths and sizes."""
    root, rng, made = tmp_path_factory.mktemp("videos"), np.random.default_rng(0), []
    for number, (frames, height, width) in enumerate(
        [(9, 24, 32), (14, 32, 24), (6, 24, 24), (12, 40, 30), (7, 24, 32)]
    ):
        folder = root / f"v{number}"
        folder.mkdir()
        for frame in range(frames):
            coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            cv2.imwrite(str(folder / f"{frame:03d}.jpg"), cv2.resize(coarse, (width, height)))
        made.append(Video(folder.name, number % 2, folder, frames, ()))
    return made


class TestExtraction:
    CHOOSER = EvenClips(clip_frames=4, num_clips=3, crop=24)

    def extract(self, videos: list[Video], encode, batch_size: int, stop: StopRequest | None = None) -> np.ndarray:
        return extract_features(
            VideoClips(videos, self.CHOOSER),
            encode,
            clip_size=16,
            batch_size=batch_size,
            workers=0,
            patience_sec=60.0,
            machine=Machine(torch.device("cpu"), "fp32"),
            stop=stop or StopRequest(),
            desc="test",
        )

    @pytest.mark.parametrize("batch_size", [1, 2, 5, 8])
    def test_every_video_in_order_the_last_partial_batch_included(self, videos: list[Video], batch_size: int) -> None:
        torch.manual_seed(0)
        encode = projected_encoder(build_encoder("r3d", width=4).eval(), Projection(32, 8))
        features = self.extract(videos, encode, batch_size)
        assert features.shape == (5, 3, 8)
        for number in range(5):
            clips, _ = render([VideoClips(videos, self.CHOOSER)[Item(0, number)]], size=16, device=torch.device("cpu"))
            for clip, feature in zip(clips, features[number], strict=True):
                with torch.no_grad():
                    np.testing.assert_allclose(feature, encode(clip[None], None)[0].numpy(), atol=1e-5)

    def test_no_gradient_is_kept(self, videos: list[Video]) -> None:
        seen = []

        def encode(clips: Tensor, masks: Tensor | None) -> Tensor:
            assert masks is None
            seen.append(torch.is_grad_enabled())
            return clips.mean(dim=(2, 3, 4))

        self.extract(videos, encode, 2)
        assert seen == [False] * 3

    def test_a_stop_is_heeded_between_batches(self, videos: list[Video]) -> None:
        stop, seen = StopRequest(), []

        def encode(clips: Tensor, masks: Tensor | None) -> Tensor:
            seen.append(len(clips))
            stop.request("enough")
            return clips.mean(dim=(2, 3, 4))

        with pytest.raises(Stopped, match="enough"):
            self.extract(videos, encode, 2, stop)
        assert seen == [6]
