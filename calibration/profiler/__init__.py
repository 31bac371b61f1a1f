"""Measuring what a step costs on the device at hand, with a decoder built in PyTorch; the only room with
torch.

``thinkcap calibrate measure`` builds the decoder of an architecture (real shapes, random weights), runs
decode, prefill and mixed steps over a grid of points and writes a table as :mod:`calibration.measurements`
declares it. The modules that need
torch (``devices``, ``kv``, ``attention``, ``layers``, ``mlp``, ``decoder``, ``bench``, ``group``, ``links``,
``executor``) are imported only after :func:`require_torch`; the others (``points``, ``shapes``, ``journal``,
``telemetry``, ``run``, ``loop``, ``synthetic``, ``session``) import without it.
"""

from __future__ import annotations

from sim.errors import InputError, Problem


def require_torch() -> str:
    """The version of torch; raise an InputError with the line that installs it when it is missing."""
    try:
        import torch
    except ImportError:
        raise InputError(
            Problem("measuring needs PyTorch, which is not installed: pip install 'thinkcap[profile]'")
        ) from None
    return str(torch.__version__)
