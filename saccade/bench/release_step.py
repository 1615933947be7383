"""The training step that others are measured against: in the style of the public release, straightforward.

The mask is multiplied out, every drawn memory row is projected by itself, as often as it is drawn, the loss is read in
every step, and slots are updated one after the other.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from saccade.learner import Learner
from saccade.losses import consistency_loss
from saccade.pretrain import Recipe

__all__ = ["release_step", "straightforward"]


def straightforward(learner: Learner) -> Learner:
    """The learner as the release has it: channels first, PyTorch's convolutions, the optimiser with its defaults."""
    learner.encoder.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    (networks, projection), defaults = learner.optimizer.param_groups, learner.optimizer.defaults
    groups = [{"params": group["params"], "lr": group["lr"]} for group in (networks, projection)]
    learner.optimizer = torch.optim.SGD(groups, momentum=defaults["momentum"], weight_decay=defaults["weight_decay"])
    return learner


def release_step(
    learner: Learner, recipe: Recipe, clips: Tensor, masks: Tensor, slots: Tensor, drawn: Tensor
) -> dict[str, float]:
    """One step of losses 1 and 2; returns the losses.

    Args:
        learner: Of `straightforward`.
        recipe: Numbers of the losses; the mask enters at the input.
        clips: `[M, 3, T, H, W]`, for each video its F first views, then its F second views.
        masks: `[M, 1, H, W]`.
        slots: Memory slot of each clip, `[M]`.
        drawn: Negatives of each clip, `[M, K]`.
    """
    assert recipe.focus_level == 0
    assert learner.propagation is not None
    clips = clips + clips * masks[:, :, None]
    features, maps = learner.encoder.forward_levels(clips, level=recipe.consistency_level)
    wanted = torch.cat([slots[:, None], drawn], dim=1)
    rows = learner.projection(learner.memory.rows[wanted.flatten()]).view(*wanted.shape, -1)
    logits = torch.bmm(rows, learner.projection(features)[:, :, None])[:, :, 0] / recipe.temperature
    contrast = F.cross_entropy(logits, torch.zeros_like(slots))
    views = [_join_views(each, recipe.focus_num) for each in learner.propagation(maps)]
    (first, second), (first_values, second_values) = views
    consistency = consistency_loss(
        first,
        second,
        first_values,
        second_values,
        power=recipe.consistency_power,
        clamp=recipe.consistency_clamp,
        distance=recipe.consistency_distance,
    )
    loss = contrast + recipe.consistency_weight * consistency
    learner.optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    learner.optimizer.step()
    with torch.no_grad():
        for slot, feature in zip(slots.tolist(), features, strict=True):
            kept = recipe.memory_momentum * learner.memory.rows[slot]
            learner.memory.rows[slot] = kept + (1 - recipe.memory_momentum) * feature
    return {"loss": loss.item(), "loss_saccade": contrast.item(), "loss_consistency": consistency.item()}


def _join_views(maps: Tensor, focus_num: int) -> tuple[Tensor, Tensor]:
    """First and second views of each video `[B, C, F * t * h * w]`, joined one by one."""
    first, second = [], []
    for video in maps.split(2 * focus_num):  # type: ignore[no-untyped-call]
        first.append(torch.cat(list(video[:focus_num]), dim=1).flatten(1))
        second.append(torch.cat(list(video[focus_num:]), dim=1).flatten(1))
    return torch.stack(first), torch.stack(second)
