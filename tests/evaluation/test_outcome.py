"""What a classifier's head makes of features, and its logits of videos, against literal versions of method.md."""

import numpy as np
import pytest
import torch

from saccade.evaluation.classifier import (
    outcome,
)
from saccade.models.heads import ClassifierHead


class TestOutcome:
    def test_the_mean_of_the_clips_logits_decides(self) -> None:
        rng = np.random.default_rng(1)
        logits, labels = rng.standard_normal((40, 10, 12)).astype(np.float32), rng.integers(0, 12, 40)
        right = {1: 0, 5: 0}
        for m in range(40):
            means = [sum(float(logits[m, v, k]) for v in range(10)) / 10 for k in range(12)]
            order = sorted(range(12), key=lambda k: -means[k])
            for k in right:
                right[k] += labels[m] in order[:k]
        found = outcome(logits, labels, trained_classes=12)
        assert found.scores == {f"top{k}": pytest.approx(count / 40) for k, count in right.items()}

    def test_not_the_majority_of_the_clips(self) -> None:
        # Two clips say class 0 by 1, one says class 1 by 3: the mean says class 1.
        logits = np.array([[[1.0, 0.0], [1.0, 0.0], [0.0, 3.0]]], np.float32)
        found = outcome(logits, np.array([1]), trained_classes=2)
        assert found.ranked.tolist() == [[1, 0]]
        assert found.scores == {"top1": 1.0}

    @pytest.mark.parametrize(("classes", "names"), [(2, ["top1"]), (5, ["top1"]), (6, ["top1", "top5"])])
    def test_top_5_only_where_it_can_fail(self, classes: int, names: list[str]) -> None:
        # Twelve logits, as for a dataset of twelve classes of which only some have videos.
        found = outcome(np.zeros((3, 2, 12), np.float32), np.array([0, 1, 1]), trained_classes=classes)
        assert list(found.scores) == names


class TestHead:
    def test_the_probe_puts_length_one_and_batch_norm_before_the_linear_layer(self) -> None:
        torch.manual_seed(0)
        head = ClassifierHead(6, 3, standardise=True)
        x = torch.randn(5, 6) * 9
        logits = head(x)
        unit = x / x.norm(dim=1, keepdim=True)
        standard = (unit - unit.mean(0)) / (unit.var(0, correction=0) + 1e-5).sqrt()
        torch.testing.assert_close(logits, standard @ head.linear.weight.T + head.linear.bias)

    def test_dropout_zeroes_and_scales_in_training_only(self) -> None:
        head = ClassifierHead(2000, 1, dropout=0.7)
        with torch.no_grad():
            head.linear.weight.fill_(1)
            head.linear.bias.zero_()
            draws = torch.Generator().manual_seed(3)
            sums = torch.stack([head(torch.ones(1, 2000), draws) for _ in range(20)]).flatten()
            kept = sums * 0.3  # each value kept counts 1 / 0.3
            torch.testing.assert_close(kept, kept.round(), atol=1e-2, rtol=0)
            assert 560 < kept.mean() < 640
            assert len(set(sums.tolist())) > 10
            again = torch.Generator().manual_seed(3)
            assert torch.equal(head(torch.ones(1, 2000), again)[0], sums[:1])
            head.eval()
            assert head(torch.ones(1, 2000)).item() == pytest.approx(2000)

    def test_fine_tuning_has_neither_norm(self) -> None:
        head = ClassifierHead(6, 3, dropout=0.7).eval()
        assert {name for name, _ in head.named_parameters()} == {"linear.weight", "linear.bias"}
        x = torch.randn(5, 6) * 9
        torch.testing.assert_close(head(x), x @ head.linear.weight.T + head.linear.bias)
