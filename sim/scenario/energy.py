"""The ``energy`` section: what stands between the GPUs' watts and the planet."""

from __future__ import annotations

from pydantic import Field

from sim.scenario.base import GramsPerKwh, Section


class Energy(Section):
    """From the GPUs' kilowatt-hours to those of the site, and to grams of CO₂e."""

    carbon_intensity: GramsPerKwh = Field(
        default=445.0,
        description="grams of CO2e of a kilowatt-hour; the default is the world's mean of 2024 (IEA, Electricity 2025, "
        "chapter Emissions: CO2 of generation alone). Grids lie between some 30 and 700: state yours",
    )
    power_usage_effectiveness: float = Field(
        default=1.56,
        ge=1,
        le=10,
        alias="pue",
        description="energy of the site over that of its machines; the default is the mean of the Uptime Institute's "
        "Global Data Center Survey of 2024 (operators' largest sites; 1.55 to 1.59 since 2020). CPUs, memory and "
        "network cards of the servers come on top and are not counted",
    )
