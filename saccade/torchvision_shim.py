"""torchvision that also imports beside a CPU build of PyTorch.

PyPI's torchvision wheel is built for CUDA. Beside a PyTorch without CUDA its compiled part cannot be loaded
(libtorch_cuda is not there), so its operators stay unregistered, and `import torchvision` then dies on the first Python
registration for one of them: "operator torchvision::nms does not exist". The transforms and the video networks, which
are all that saccade uses on a CPU, are plain PyTorch and need none of these operators; it is enough that the names
exist.

Always use torchvision through this module: `torchvision_shim.functional` (transforms), `.video_models` and `.io`. It is
imported at first use, since it takes seconds and the CPU's own path has no use for it.
"""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import torch

__all__ = ["functional", "io", "stands_in", "video_models"]  # noqa: F822 - all but one are made by __getattr__

# The two operators that torchvision registers fake kernels for at import time, whether or not it could load them.
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def _compiled_part_loads() -> bool:
    """Whether torchvision's own operators can be had. That torchvision loads the library again is harmless."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return True  # Not installed: leave it to the import to say so.
    libraries = [path for path in Path(spec.origin).parent.glob("_C*") if path.suffix in {".so", ".pyd"}]
    for library in libraries:
        try:
            torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
        except OSError:
            return False
    return bool(libraries)


def _declare_missing_operators() -> torch.library.Library | None:
    """Declare the schemas that importing torchvision needs; None when there is nothing to do.

    With a CUDA build of PyTorch a library that does not load is a broken installation, which must not be papered over.
    """
    if "torchvision" in sys.modules or torch.version.cuda is not None or torch.version.hip is not None:
        return None
    if _compiled_part_loads():
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS:
        if not hasattr(torch.ops.torchvision, schema.partition("(")[0]):
            library.define(schema)  # type: ignore[no-untyped-call]
    return library


# The declarations live as long as this object, so the module holds on to it.
_LIBRARY = _declare_missing_operators()


def stands_in() -> bool:
    """Whether torchvision's own operators could not be had, so that only their names are there."""
    return _LIBRARY is not None


_MODULES = {
    "functional": "torchvision.transforms.v2.functional",
    "io": "torchvision.io",
    "video_models": "torchvision.models.video",
}


def __getattr__(name: str) -> ModuleType:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(_MODULES[name])
