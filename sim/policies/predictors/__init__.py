"""Length predictors: how many output tokens are expected. One file a policy; the contract is in
`sim.policies.predicting`."""

from __future__ import annotations

from sim.policies.predicting import Predictor
from sim.registry import Registry

predictor: Registry[Predictor] = Registry("predictor", "sim.policies.predictors")
