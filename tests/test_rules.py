"""Rule books: whose rules hold for which agent."""

from dispatcher.core.rules import KINDS, NOTHING, Judges, RuleBook, said_by_agents
from dispatcher.patterns import compile_patterns

JUDGES = Judges(stop=compile_patterns({"secret": "secret"}))


def test_an_agent_without_rules_of_its_own_has_those_of_all_others() -> None:
    book = RuleBook("v1", of_agents={"support": {"user": JUDGES}}, of_others=said_by_agents(JUDGES))
    assert book.judges("support") == {"user": JUDGES}
    assert book.judges("sales") == said_by_agents(JUDGES)


def test_what_agents_say_is_all_but_what_the_user_says() -> None:
    assert set(said_by_agents(JUDGES)) == set(KINDS) - {"user"}
    assert said_by_agents(NOTHING) == {}


def test_what_needs_no_json_is_redacted_as_a_text() -> None:
    assert RuleBook().redact_json("a", lambda text: (text + "!", []), lambda _: "#") == ("a!", [])


def test_its_repr_names_the_version() -> None:
    assert repr(RuleBook("v1", frozenset({"card"}))) == "<RuleBook v1, 1 rules>"
    assert repr(RuleBook()) == "<RuleBook of settings, 0 rules>"
