"""Tools that the dispatcher runs.

For whoever writes one: `tool`, `ToolContext`, `ToolError` and its kinds, or the protocol `Tool`. For whoever
runs them: `load_tools` and `ToolRunner`.
"""

from dispatcher.tools.contract import (
    Tool,
    ToolArgumentsError,
    ToolAway,
    ToolContext,
    ToolDenied,
    ToolError,
    ToolFailure,
    ToolLimits,
    ToolLoadError,
    ToolOffer,
    ToolOutcome,
    ToolRequest,
)
from dispatcher.tools.loading import installed_tools, load_tools
from dispatcher.tools.python import PythonTool, tool
from dispatcher.tools.runner import ToolRunner
from dispatcher.tools.station import RunnerLimits, ToolStats

__all__ = [
    "PythonTool",
    "RunnerLimits",
    "Tool",
    "ToolArgumentsError",
    "ToolAway",
    "ToolContext",
    "ToolDenied",
    "ToolError",
    "ToolFailure",
    "ToolLimits",
    "ToolLoadError",
    "ToolOffer",
    "ToolOutcome",
    "ToolRequest",
    "ToolRunner",
    "ToolStats",
    "installed_tools",
    "load_tools",
    "tool",
]
