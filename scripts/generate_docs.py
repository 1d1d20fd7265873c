"""Writes the generated parts of README.md and docs/: tables that are true because code makes them.

A generated part stands between `<!-- NAME:begin … -->` and `<!-- NAME:end -->`. `--check` changes nothing and
exits with 1, naming the file, when a part is not what the code says.
"""

import argparse
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import commander.metrics
import commander.settings
import dispatcher.settings
from commander.core.breaker import Breaker
from commander.core.turn import Usage
from commander.errors import TOOL_FAILURES
from commander.models.failures import FAILURES
from commander.models.table import ModelTable
from dispatcher.core.endings import ENDINGS, REFUSALS
from dispatcher.core.session import TRANSITIONS, State
from dispatcher.metrics import Metrics

ROOT: Final = Path(__file__).resolve().parent.parent


def endings() -> str:
    """The table of endings and refusals."""
    rows = ["| ending | gRPC | HTTP | try again? | what to do |", "| --- | --- | --- | --- | --- |"]
    for table in (ENDINGS, REFUSALS):
        if table is REFUSALS:
            rows += ["", "A request that opens no session is refused at once:", ""]
            rows += ["| refusal | gRPC | HTTP | try again? | what to do |", "| --- | --- | --- | --- | --- |"]
        for how, traits in table.items():
            again = f"after {traits.retry_after_s:g} s" if traits.retryable and traits.retry_after_s else "no"
            rows.append(f"| `{how.value}` | {traits.grpc} | {traits.http} | {again} | {traits.advice} |")
    return "\n".join(rows)


def states() -> str:
    """The session's state diagram, in Mermaid."""
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {State.QUEUED.value}"]
    for before, steps in TRANSITIONS.items():
        lines += [f"    {before.value} --> {after.value}: {step.value}" for step, after in steps.items()]
    lines += [f"    {State.ENDED.value} --> [*]", "```"]
    return "\n".join(lines)


def settings(module: object) -> Callable[[], str]:
    def table() -> str:
        rows = ["| setting | default | changes while it runs | what it is for |", "| --- | --- | --- | --- |"]
        for name, field in module.Settings.model_fields.items():  # type: ignore[attr-defined]  # either module
            extra = field.json_schema_extra or {}
            default = "none" if field.default in (None, "", [], {}) else f"`{field.default}`"
            changes = "yes" if extra.get("changeable") else ""
            text = (field.description or "").replace("|", "\\|")
            rows.append(f"| `{name}` | {default} | {changes} | {text} |")
        return "\n".join(rows)

    return table


def metrics() -> str:
    """The dispatcher's own metrics."""
    made = Metrics()
    rows = ["| metric | kind | labels | what it is |", "| --- | --- | --- | --- |"]
    rows += [
        f"| `{name}` | {kind} | {', '.join(labels) or ''} | {text} |"
        for name, kind, labels, text in made.table()
    ]
    return "\n".join(rows)


def commander_metrics() -> str:
    """The commander's own metrics. Labels are known of what has been counted, so everything is counted once."""
    made = commander.metrics.Metrics()
    made.watch(0, lambda: 0, lambda: 0)
    made.turn_started("")
    made.turn_ended("", "")
    made.start_refused("")
    made.link_failed("")
    made.packet_ignored("")
    made.outbox_waited("", 0)
    made.stop_came_to("", 0)
    made.model_requested("", "")
    made.model_retried("", "")
    made.model_fell_back("", "")
    made.model_began("", 0)
    made.model_used("", Usage())
    made.watch_circuit("", Breaker(1, 1))
    rows = ["| metric | kind | labels | what it is |", "| --- | --- | --- | --- |"]
    for family in sorted(made.registry.collect(), key=lambda family: family.name):
        if not family.samples:
            raise LookupError(
                f"{family.name}: count one of it in generate_docs.py, for its labels to be known"
            )
        total = "_total" if family.type == "counter" else ""
        labels = ", ".join(label for label in family.samples[0].labels if label != "le")
        rows.append(f"| `{family.name}{total}` | {family.type} | {labels} | {family.documentation} |")
    return "\n".join(rows)


def tool_failures() -> str:
    """What a tool call may raise in an agent."""
    rows = ["| exception | `code` | what happened |", "| --- | --- | --- |"]
    for code, failure in TOOL_FAILURES.items():
        told = (failure.__doc__ or "").strip().replace("\n", " ")
        rows.append(f"| `{failure.__name__}` | `{code}` | {told} |")
    return "\n".join(rows)


def model_failures() -> str:
    """What a language model may fail with."""
    rows = [
        "| `code` | what happened | tried again | fallbacks | what to do |",
        "| --- | --- | --- | --- | --- |",
    ]
    for code, traits in FAILURES.items():
        cells = ["yes" if each else "" for each in (traits.is_retried, traits.falls_back)]
        rows.append(f"| `{code}` | {traits.told} | {' | '.join(cells)} | {traits.advice} |")
    return "\n".join(rows)


def model_tables() -> str:
    """The keys of `[models.NAME]`."""
    rows = ["| key | default | what it is for |", "| --- | --- | --- |"]
    for name, field in ModelTable.model_fields.items():
        default = (
            "must be told" if field.is_required() else f"`{field.get_default(call_default_factory=True)}`"
        )
        default = "none" if default in ("`None`", "``", "`{}`", "`()`") else default
        rows.append(f"| `{name}` | {default} | {field.description} |")
    return "\n".join(rows)


PARTS: Final[Mapping[str, Callable[[], str]]] = {
    "endings": endings,
    "states": states,
    "dispatcher-settings": settings(dispatcher.settings),
    "commander-settings": settings(commander.settings),
    "metrics": metrics,
    "commander-metrics": commander_metrics,
    "tool-failures": tool_failures,
    "model-failures": model_failures,
    "model-tables": model_tables,
}


def regenerated(text: str) -> str:
    """The text with its generated parts made anew."""
    for name, make in PARTS.items():
        pattern = re.compile(rf"(<!-- {name}:begin[^>]*-->\n).*?(<!-- {name}:end -->)", re.DOTALL)
        text = pattern.sub(lambda found, make=make: f"{found[1]}{make()}\n{found[2]}", text)  # type: ignore[misc]
    return text


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit with 1 when something is old"
    )
    check = parser.parse_args().check
    old = []
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        text = path.read_text()
        fresh = regenerated(text)
        if fresh != text:
            old.append(path.relative_to(ROOT))
            if not check:
                path.write_text(fresh)
    if check and old:
        print(f"not what the code says: {', '.join(map(str, old))}: run make docs", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
