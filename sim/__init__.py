"""ThinkCap: capacity planning for serving reasoning LLMs.

``load`` reads a scenario, ``simulate`` runs it. Both are imported on first use, so that importing the package costs
nothing.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sim.scenario.load import load as load
    from sim.simulate import simulate as simulate

__all__ = ["load", "simulate"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "load":
        from sim.scenario.load import load

        return load
    if name == "simulate":
        from sim.simulate import simulate

        return simulate
    raise AttributeError(f"module 'sim' has no attribute {name!r}")
