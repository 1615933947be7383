"""Linear probe: what a linear layer makes of the frozen encoder's features."""

from saccade.engine.batch_norm import joined_batch_norm
from saccade.evaluation.classifier import Classifier, MakeOptimizer, Source
from saccade.evaluation.clip_features import Clips, EncodedClips, StoredFeatures
from saccade.models.encoder import Encoder
from saccade.models.heads import ClassifierHead

__all__ = ["linear_probe"]


def linear_probe(
    encoder: Encoder,
    clips: Clips,
    classes: int,
    *,
    optimizer: MakeOptimizer,
    augment: bool,
    batch_norm_training: bool,
) -> tuple[Classifier, Source]:
    """A classifier behind features of length 1 and batch norm, and where its features come from.

    Args:
        encoder: A copy for this probe alone.
        clips: Of the split.
        classes: Number of classes; the head's weights are drawn from torch's global generator.
        optimizer: From groups of parameters to what steps them.
        augment: Train on augmented clips, and not on stored features of plain ones.
        batch_norm_training: Let the encoder's batch norm follow the training clips.
    """
    encoder.requires_grad_(False).eval()
    device = clips.machine.device
    head = joined_batch_norm(ClassifierHead(encoder.feature_dim, classes, standardise=True).to(device), device)
    groups = [{"params": list(head.parameters()), "lr_ratio": 1.0}]
    classifier = Classifier(head, encoder if batch_norm_training else None, optimizer(groups))
    if augment:
        return classifier, EncodedClips(encoder, clips, frozen=not batch_norm_training)
    return classifier, StoredFeatures(encoder, clips)
