"""An agent that is offered as a tool: whoever calls it gets the answer of a session with that agent.

It is under the rules of tools, and is run by none of them: the runner says which agent is to be asked.
"""

from collections.abc import Mapping
from typing import Final

from dispatcher.tables import AgentTable
from dispatcher.tools.contract import Tool, ToolContext, ToolLimits, require_name

SCHEMA: Final[Mapping[str, object]] = {
    "type": "object",
    "properties": {
        "text": {
            "type": "string",
            "minLength": 1,
            "description": "The task, in full: the agent sees nothing else of this conversation.",
        }
    },
    "required": ["text"],
    "additionalProperties": False,
}


def agent_tools(tables: Mapping[str, AgentTable]) -> list[Tool]:
    """One for each table, by the table's name. Raises ToolLoadError."""
    tools: list[Tool] = [AgentTool(name, table) for name, table in tables.items()]
    for tool in tools:
        require_name(tool)
    return tools


class AgentTool:
    """See the module."""

    parameters_schema = SCHEMA
    # Asked once more after a crash where it was not asked yet; see the ledger.
    is_idempotent = True

    def __init__(self, name: str, table: AgentTable) -> None:
        self.name = name
        # What `dispatcher tools` shows.
        self.source = f"agent.{name}"
        self.description = table.description
        self.agent = table.agent
        self.agent_version = table.agent_version
        self.limits = ToolLimits(timeout_s=table.timeout_s)

    def __repr__(self) -> str:
        return f"<AgentTool {self.name!r} asks {self.agent!r}>"

    async def call(self, arguments: dict[str, object], context: ToolContext) -> object:
        """What its agent is to be asked: the runner makes a session of it instead of an outcome."""
        version = {"agent_version": self.agent_version} if self.agent_version else {}
        return {**arguments, **version}
