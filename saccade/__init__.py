"""saccade: saccade-guided video self-supervision. A YAML spec goes in; a tracked, repeatable, comparable run comes out.

`load_encoder` gives a trained encoder for use elsewhere. Importing this package is cheap: torch comes with first use.
"""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saccade.models.export import load_encoder

__all__ = ["__version__", "load_encoder"]

try:
    __version__ = version("saccade")
except PackageNotFoundError:  # run from a checkout that was never installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    if name == "load_encoder":
        from saccade.models.export import load_encoder

        return load_encoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
