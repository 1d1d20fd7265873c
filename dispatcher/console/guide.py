"""What the help of the command line teaches: for each command what it is for, and examples. Text alone.

`dispatcher.cli` shows it; nothing else reads it.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Lesson:
    """One command. Each example is a command line and what it does; at least two."""

    name: str
    group: str
    summary: str
    description: str
    examples: tuple[tuple[str, str], ...]


PURPOSE: Final = (
    "The gateway between users and the agents that commanders run: it routes sessions, runs tools, applies "
    "the rules, and can stop everything. `dispatcher COMMAND --help` tells more about each."
)

GROUPS: Final = (
    ("serve", "run a dispatcher"),
    ("use", "talk to agents, as an application does"),
    ("operate", "see, bound and stop what runs"),
)

EXIT_STATUSES: Final = """\
exit status:
  0 done, completed   2 wrong usage   3 the session was stopped   4 it failed, or did not arrive whole
  5 the dispatcher refuses   6 the dispatcher can't be reached   130 left by Ctrl-C
  141 whoever read the output has left"""

LESSONS: Final[tuple[Lesson, ...]] = (
    Lesson(
        "serve",
        "serve",
        "run a dispatcher",
        "Runs a dispatcher until SIGTERM or Ctrl-C: commanders connect to it, applications ask it, "
        "operators steer it. Every setting is a flag, a variable DISPATCHER_… or a line in a TOML "
        "file; flags win over variables, variables over the file.",
        (
            ("dispatcher serve", "listens on 127.0.0.1:50051, metrics on 127.0.0.1:9464"),
            (
                "dispatcher serve --tools demo --tools my_tools:TOOLS --http-address 127.0.0.1:8080",
                "with tools from two places, HTTP, and a page to try it with at http://127.0.0.1:8080",
            ),
            (
                (
                    "dispatcher serve --grpc-address 0.0.0.0:50051 --http-address 0.0.0.0:8443"
                    " --tls-certificate cert.pem --tls-key key.pem --tokens-file tokens.toml"
                ),
                "for other machines, with TLS; who may come in, and as what, is in tokens.toml (docs/operating.md)",
            ),
            (
                "dispatcher serve --print-config",
                "shows every setting and where its value comes from, then ends",
            ),
        ),
    ),
    Lesson(
        "chat",
        "use",
        "ask an agent and watch it work",
        "Asks an agent and shows its session live: thoughts dimmed, the answer as it is written, tool"
        " calls, progress. Its questions are answered by typing; any other line you type is told to "
        "the agent while it runs. Ctrl-C stops the session, a second one leaves at once. Where the "
        "output is no terminal it is plain lines; where the input is none, its lines answer "
        "questions. How it ended, with the session's id, is told on stderr, with the lines you typed that no "
        "agent has read. When the worker is lost another one takes over; where its answer begins anew, a line "
        "that begins with `! ====` makes void all above it, and the answer follows. A dispatcher that goes away "
        "is waited for. A session goes on when its chat is killed, unless --stop-when-left says otherwise. In scripts, "
        "--answer prints nothing but the answer, once it is whole.",
        (
            (
                'dispatcher chat "What is 17 * 23, and what time is it in Tokyo?"',
                "asks the only agent there is",
            ),
            (
                'dispatcher chat "Hello" --agent demo --answer > answer.txt',
                "the answer alone, when it is whole and checked; --json has one object per event",
            ),
        ),
    ),
    Lesson(
        "answer",
        "use",
        "answer a question of a session that runs elsewhere",
        "Answers an open question of a session, whoever opened it. VALUE is an option's text or number; where "
        "the question has a schema, JSON that fits it; else any text. Who may not look into sessions, as an "
        "application's token may not, gives JSON as JSON and all else as text. "
        "`session` shows which questions are open.",
        (
            ('dispatcher answer SESSION q1 "Bern"', "an option, or a text"),
            ("dispatcher answer SESSION q1 --decline", "the agent learns that nobody will answer"),
        ),
    ),
    Lesson(
        "say",
        "use",
        "tell the agent of a session something while it runs",
        "Adds a message to a running session, whoever opened it. Its agent takes it up when it looks for one; a "
        "message that no agent has read when the session ends is given back: its id is in the ending.",
        (
            ('dispatcher say SESSION "shorter, please"', "steers it"),
            (
                'dispatcher say SESSION "go on" --json | jq -r .message_id',
                "the id by which the ending tells of it",
            ),
        ),
    ),
    Lesson(
        "agents",
        "use",
        "list the agents that can be asked",
        "Lists the agents that connected commanders serve now, with how many sessions they have room for.",
        (
            ("dispatcher agents", "a table"),
            ("dispatcher agents --json | jq -r .offer.name", "their names"),
        ),
    ),
    Lesson(
        "sessions",
        "operate",
        "list sessions",
        "Lists the sessions that run or wait, newest first, with what each is at. Selectors narrow the list.",
        (
            ("dispatcher sessions --agent demo", "those of one agent"),
            ("dispatcher sessions --all-ended --json", "the kept endings too, one JSON object per session"),
        ),
    ),
    Lesson(
        "session",
        "operate",
        "show all that is known of one session",
        "Shows one session: its state, what it waits for, its open questions with their ids, what it has used, "
        "how it ended.",
        (
            ("dispatcher session SESSION", "a line for each thing known"),
            (
                "dispatcher session SESSION --json | jq .cursor",
                "its last event's cursor, for `watch --cursor`",
            ),
        ),
    ),
    Lesson(
        "watch",
        "operate",
        "follow a session, thoughts included",
        "Shows all events of a session from the first one kept, thoughts included, and follows it to "
        "its ending. Watching changes nothing: Ctrl-C leaves and the session goes on. Where an answer begins anew, "
        "a line that begins with `! ====` makes void all above it. The exit status tells how it ended.",
        (
            ("dispatcher watch SESSION", "from its beginning"),
            (
                "dispatcher watch SESSION --cursor EPOCH:OFFSET --json",
                "what came after an event, for scripts",
            ),
        ),
    ),
    Lesson(
        "stop",
        "operate",
        "stop sessions, at once",
        "Stops the sessions named, or all that match every selector given. When it returns, nothing "
        "more of them reaches a viewer; their agents are cancelled, and abandoned after their grace. "
        "Stopping twice does no harm.",
        (
            ('dispatcher stop SESSION --reason "wrong customer"', "one session"),
            ("dispatcher stop --user alice --code risk-control", "all sessions of a user"),
        ),
    ),
    Lesson(
        "commanders",
        "operate",
        "list commanders with their slots",
        "Lists the commanders that are connected or expected back: what they serve, how full they "
        "are, how long they have been silent, and whether an agent blocks them.",
        (
            ("dispatcher commanders", "a table"),
            ("dispatcher commanders --json | jq .slots_stuck", "slots whose agent ignored its stop"),
        ),
    ),
    Lesson(
        "tools",
        "operate",
        "list the tools on offer",
        "Lists the tools that the dispatcher runs for agents, with their limits and what they have done.",
        (
            ("dispatcher tools", "a table"),
            (
                "dispatcher tools --json | jq -r .offer.parameters_schema_json",
                "the schemas of their arguments",
            ),
        ),
    ),
    Lesson(
        "drain",
        "operate",
        "take no more sessions, finish those that run",
        "Lets a commander, or the dispatcher itself, take no more sessions, finish those it has, and "
        "leave. At the deadline, sessions that a commander still runs are handed over to others, as their next "
        "attempt, or end as `commander_lost` where their agent must not run twice; a dispatcher with its journal in "
        "a file leaves them as they stand for its next life, and one with it in memory ends them as `shutdown`. "
        "Answers at once with how many still run.",
        (
            ("dispatcher drain --commander worker-1", "before that worker is replaced"),
            ("dispatcher drain --deadline-s 60", "the dispatcher; what runs has a minute to end"),
        ),
    ),
    Lesson(
        "limits",
        "operate",
        "show limits, and change them while it runs",
        "Shows every limit with its value now, and for those that are policies the mode, as --mode takes it. With "
        "--set or --mode it changes those named, all or none, until the dispatcher is started again.",
        (
            ("dispatcher limits", "a table"),
            ("dispatcher limits --set queue_wait_s=30", "changes one and shows the outcome"),
        ),
    ),
)
