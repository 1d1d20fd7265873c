"""Who makes a request, whichever way it came in, and what that lets it see.

Set by whoever lets a request in (`auth.py` for gRPC, an edge for its own), in the task that serves it; read by whoever
judges what is asked. Knows neither tokens nor any wire.
"""

from contextvars import ContextVar
from typing import Final, Literal, NamedTuple, TypeGuard

Role = Literal["commander", "application", "admin"]
# Of a user's id, and of a name.
ID_CHARS_MAX: Final = 256


class Identity(NamedTuple):
    """Who it is. `user_id` empty: it may speak for any of its users; set: it is that user and nobody else. `thoughts`:
    it may have what agents think, where it asks for that."""

    role: Role
    name: str
    user_id: str = ""
    thoughts: bool = False

    @property
    def actor(self) -> str:
        """As "role:name", in stops and in what sessions were opened by; empty where nobody has to say."""
        return f"{self.role}:{self.name}" if self.name else ""

    def may_see(self, application: str, user_id: str) -> bool:
        """Whether a session is its to see, and to steer: of which actor opened it, and for which user."""
        if self.role != "application":
            return self.role == "admin"
        return user_id == self.user_id if self.user_id else application == self.actor


def is_id(value: object) -> TypeGuard[str]:
    """Whether it can be a user's id or a name: a text that fits into logs and messages."""
    return isinstance(value, str) and 0 < len(value) <= ID_CHARS_MAX and value.isprintable()


# Where a dispatcher asks for no tokens: everybody is its operator.
ANYBODY: Final = Identity("admin", "", thoughts=True)
# Where it asks for tokens, until it is known who bears one: an edge that forgets to look lets nobody in.
NOBODY: Final = Identity("commander", "")

caller: Final[ContextVar[Identity]] = ContextVar("caller", default=ANYBODY)
