"""Result tables: declared columns, sinks that the simulation writes to, saving and loading."""

from sim.results.columns import KINDS, ROLES, STATUSES, TABLES, Column, Kind, Role, Status
from sim.results.info import PoolInfo, RunInfo, SloTarget
from sim.results.results import SCHEMA_VERSION, Results, replace_directory
from sim.results.sinks import (
    QUERY_ROW,
    REQUEST_ROW,
    SEGMENT_ROW,
    STALL_ROW,
    RequestSink,
    RowSink,
    SegmentSink,
)
from sim.results.tables import Table, build

__all__ = [
    "KINDS",
    "QUERY_ROW",
    "REQUEST_ROW",
    "ROLES",
    "SCHEMA_VERSION",
    "SEGMENT_ROW",
    "STALL_ROW",
    "STATUSES",
    "TABLES",
    "Column",
    "Kind",
    "PoolInfo",
    "RequestSink",
    "Results",
    "Role",
    "RowSink",
    "RunInfo",
    "SegmentSink",
    "SloTarget",
    "Status",
    "Table",
    "build",
    "replace_directory",
]
