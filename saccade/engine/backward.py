"""The backward pass of a loss that processes share: PyTorch's DistributedDataParallel averages the gradients."""

import warnings
from collections.abc import Iterable
from contextlib import nullcontext

import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from saccade.engine import ranks

__all__ = ["Backward"]


class _Networks(nn.Module):
    """What DistributedDataParallel is to know: parameters, and which loss is next to be differentiated.

    It wants no more of a `forward` than to be told; so the loss may be any function of several networks, and these keep
    the names of their weights.
    """

    def __init__(self, networks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, loss: Tensor) -> Tensor:
        return loss


class Backward:
    """Backward passes after which gradients are means over all processes: those of the whole batch, if its loss is.

    Gradients travel while others are still computed. With one process it is `loss.backward()`.

    Args:
        networks: Whose parameters that require a gradient all get one from each loss.
    """

    def __init__(self, networks: Iterable[nn.Module]) -> None:
        self._networks: DistributedDataParallel | None = None
        if ranks.size() > 1:
            # The batch norms' buffers are equal in all processes, for they have seen the same.
            self._networks = DistributedDataParallel(
                _Networks(networks), forward_sync_buffers=False, gradient_as_bucket_view=True
            )

    def __call__(self, loss: Tensor, *, last: bool = True) -> None:
        """Differentiate a loss.

        Args:
            loss: A scalar.
            last: Of the parts of a batch whose gradients are added up; only then do processes exchange them.

        Raises:
            PeerGoneError: Another process has ended.
        """
        if self._networks is None:
            loss.backward()  # type: ignore[no-untyped-call]
            return
        try:
            with warnings.catch_warnings(), nullcontext() if last else self._networks.no_sync():
                # Of a kernel of 1 x 1 x 1 channels last and channels first are the same memory, but not the same words.
                warnings.filterwarnings("ignore", "Grad strides do not match", UserWarning)
                self._networks(loss).backward()
        except RuntimeError as error:
            # Gloo's errors have no class of their own, and others (no memory) are about this process.
            if isinstance(error, dist.DistError) or "gloo" in str(error).lower():
                raise ranks.PeerGoneError.of(error) from None
            raise
