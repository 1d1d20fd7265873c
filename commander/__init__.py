"""The commander: the worker that runs agents and streams what they say to a dispatcher.

    from commander import agent, Turn

    @agent("weather", description="Answers questions about the weather")
    async def weather(turn: Turn):
        yield turn.thought("Planning", "The user wants a forecast.")
        report = await turn.call_tool("search", q=turn.text)
        yield f"It will be {report['forecast']}."

`commander run my_agents:weather` serves it.
"""

from commander.agent import Agent, agent
from commander.blocking_team import BlockingMember, BlockingTeam
from commander.conversation import Blob, JsonPart, Message, Published, PublishedCall, ToolOffer, UserMessage
from commander.errors import (
    AgentError,
    InvalidArguments,
    ModelFailed,
    QuestionUnanswered,
    Stopped,
    ToolCancelled,
    ToolDenied,
    ToolFailed,
    ToolNotFound,
    ToolOutcomeUnknown,
    ToolTimeout,
    ToolTooLarge,
)
from commander.outputs import Artifact, Content, Embedding, Output, Progress, Thought, Used
from commander.team import Member, MemberResult, Team
from commander.turn import BlockingTurn, Turn

__all__ = [
    "Agent",
    "AgentError",
    "Artifact",
    "Blob",
    "BlockingMember",
    "BlockingTeam",
    "BlockingTurn",
    "Content",
    "Embedding",
    "InvalidArguments",
    "JsonPart",
    "Member",
    "MemberResult",
    "Message",
    "ModelFailed",
    "Output",
    "Progress",
    "Published",
    "PublishedCall",
    "QuestionUnanswered",
    "Stopped",
    "Team",
    "Thought",
    "ToolCancelled",
    "ToolDenied",
    "ToolFailed",
    "ToolNotFound",
    "ToolOffer",
    "ToolOutcomeUnknown",
    "ToolTimeout",
    "ToolTooLarge",
    "Turn",
    "Used",
    "UserMessage",
    "agent",
]
