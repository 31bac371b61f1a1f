"""Fixtures of the profiler's tests."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for decoder_sorts

from decoder_sorts import SORTS

from calibration.architecture import Architecture


@pytest.fixture(params=sorted(SORTS))
def architecture(request: pytest.FixtureRequest) -> Architecture:
    """Each sort of decoder in turn."""
    return SORTS[request.param]


@pytest.fixture
def torch() -> Any:
    """PyTorch on one thread."""
    module = pytest.importorskip("torch")
    module.set_num_threads(1)
    return module
