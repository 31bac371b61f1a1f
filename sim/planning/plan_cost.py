"""What a query and a million tokens of a plan cost, and where it breaks even with an API's price."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sim.planning.design import Bill
from sim.planning.pooled import HOURS_PER_MONTH
from sim.planning.sizing import Sizer


def economics(sizer: Sizer, cost: Bill, figures: Mapping[str, Any]) -> dict[str, Any]:
    """Paid GPUs, idle ones of the nodes included, over what is answered and generated at this traffic."""
    queries = sizer.rate * 3600
    tokens = figures["output_tokens_per_s"] * 3600
    per_million = 1e6 * cost.usd_per_hour / tokens if tokens else None
    data: dict[str, Any] = {
        "usd_per_query": cost.usd_per_hour / queries,
        "usd_per_million_output_tokens": per_million,
        "queries_per_month": queries * HOURS_PER_MONTH,
    }
    price = sizer.plan.api_price_per_million_output_tokens
    if price is not None and tokens:
        api = price * tokens / 1e6 * HOURS_PER_MONTH
        data["api"] = {
            "usd_per_million_output_tokens": price,
            "usd_per_month": api,
            "break_even_share_of_traffic": cost.usd_per_month / api,
            "break_even_rate_per_s": sizer.rate * cost.usd_per_month / api,
            "cheaper": "own" if cost.usd_per_month < api else "api",
        }
    return data
