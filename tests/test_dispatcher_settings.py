"""The dispatcher's settings: the table is complete, origins are named, nonsense is refused in words."""

import argparse
import dataclasses
import tempfile
import tomllib
from collections.abc import Mapping
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import pytest
import re2
from annotated_types import Ge, Le
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dispatcher.core.limits import Limits
from dispatcher.core.policy import PolicyLimits
from dispatcher.limits import core_limits
from dispatcher.settings import (
    Loaded,
    Settings,
    SettingsError,
    add_arguments,
    change,
    load,
    metavar,
    parse_address,
    render,
)

FIELDS = Settings.model_fields
NUMBERS = [name for name, field in FIELDS.items() if field.annotation in (int, float)]
UNITS = {
    "DOLLARS",
    "ATTEMPTS",
    "FAILURES",
    "LEVELS",
    "SPEAKERS",
    "TOKENS",
    "SECONDS",
    "BYTES",
    "CHARACTERS",
    "PACKETS",
    "HEARTBEATS",
    "STREAMS",
    "LINKS",
    "SESSIONS",
    "SIGNALS",
    "MESSAGES",
    "QUESTIONS",
    "CALLS",
    "VIEWERS",
    "CONNECTIONS",
    "REQUESTS",
    "THREADS",
    "TOOLS",
}


def told(*flags: str, environ: Mapping[str, str] | None = None, toml: str | None = None) -> Loaded:
    """What a dispatcher started so would be told. `toml` stands in settings.toml of a folder of its own."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_arguments(parser, Settings.model_fields)
    with tempfile.TemporaryDirectory() as folder:
        if toml is not None:
            path = Path(folder, "settings.toml")
            path.write_text(toml, encoding="utf-8", newline="")
            flags = (*flags, "--config", str(path))
        return load(parser.parse_args(flags), environ or {})


def refused(*flags: str, environ: Mapping[str, str] | None = None, toml: str | None = None) -> list[str]:
    """The problems, one a line."""
    with pytest.raises(SettingsError) as caught:
        told(*flags, environ=environ, toml=toml)
    return str(caught.value).split("\n")


def one_refusal(*flags: str, environ: Mapping[str, str] | None = None, toml: str | None = None) -> str:
    problems = refused(*flags, environ=environ, toml=toml)
    assert len(problems) == 1, problems
    return problems[0]


# The table


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_is_made_for_people(name: str) -> None:
    field = FIELDS[name]
    assert field.description
    assert "\n" not in field.description
    assert isinstance(field.json_schema_extra, dict)
    assert field.json_schema_extra["group"]
    assert metavar(name)
    parser = argparse.ArgumentParser()
    add_arguments(parser, Settings.model_fields)
    shown = " ".join(parser.format_help().split())
    assert f"--{name.replace('_', '-')}" in shown
    assert " ".join(field.description.split()) in shown


@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_has_a_unit_in_its_name_and_bounds(name: str) -> None:
    assert metavar(name) in UNITS
    bounds = FIELDS[name].metadata
    assert [bound for bound in bounds if isinstance(bound, Ge)]
    assert [bound for bound in bounds if isinstance(bound, Le)]
    for outside in ("-1", "1e300", "nan", "inf", "many", "", "9" * 5_000):
        flag = f"--{name.replace('_', '-')}={outside}"
        assert "from" in one_refusal(flag)


@pytest.mark.parametrize("name", NUMBERS)
def test_no_number_is_true(name: str) -> None:
    assert f"settings.toml: {name}: True should be a" in one_refusal(toml=f"{name} = true")


def test_only_numbers_and_modes_can_be_changed() -> None:
    changeable = {
        name
        for name, field in FIELDS.items()
        if isinstance(field.json_schema_extra, dict) and field.json_schema_extra["changeable"]
    }
    assert changeable == {name for name in changeable if name in NUMBERS or name.endswith("_mode")}
    assert "queue_wait_s" in changeable
    assert "grpc_address" not in changeable


def test_the_cores_limits_have_the_same_defaults() -> None:
    settings = Settings()
    for limit in dataclasses.fields(Limits):
        if limit.name != "policy":
            assert getattr(settings, limit.name) == limit.default, limit.name
    assert core_limits(settings, None).policy == PolicyLimits()


def test_settings_do_not_change() -> None:
    for name in FIELDS:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(Settings(), name, FIELDS[name].default)


# Where a value comes from


def test_without_a_word_everything_is_default() -> None:
    loaded = told()
    assert loaded.settings == Settings()
    assert set(loaded.origins) == set(FIELDS)
    assert set(loaded.origins.values()) == {"default"}


def test_a_flag_wins_over_a_variable_and_a_variable_over_the_file() -> None:
    toml = "queue_wait_s = 1\nsessions_max = 1\nlinks_max = 1"
    environ = {"DISPATCHER_QUEUE_WAIT_S": "2", "DISPATCHER_SESSIONS_MAX": "2", "HOME": "/"}
    loaded = told("--queue-wait-s", "3", environ=environ, toml=toml)
    settings, origins = loaded.settings, loaded.origins
    assert (settings.queue_wait_s, origins["queue_wait_s"]) == (3.0, "--queue-wait-s")
    assert (settings.sessions_max, origins["sessions_max"]) == (2, "DISPATCHER_SESSIONS_MAX")
    assert settings.links_max == 1
    assert origins["links_max"].endswith("settings.toml: links_max")
    assert (settings.tool_calls_max, origins["tool_calls_max"]) == (200, "default")


def test_the_file_can_be_named_by_a_variable_and_a_flag_wins(tmp_path: Path) -> None:
    one, other = tmp_path / "one.toml", tmp_path / "other.toml"
    one.write_text("queue_wait_s = 1")
    other.write_text("queue_wait_s = 2")
    environ = {"DISPATCHER_CONFIG": str(one)}
    assert told(environ=environ).settings.queue_wait_s == 1
    loaded = told("--config", str(other), environ=environ)
    assert loaded.settings.queue_wait_s == 2
    assert loaded.origins["queue_wait_s"] == f"{other}: queue_wait_s"


def test_booleans_can_be_taken_back() -> None:
    loaded = told("--no-insecure", environ={"DISPATCHER_INSECURE": "true"})
    assert not loaded.settings.insecure
    assert loaded.origins["insecure"] == "--no-insecure"
    assert told("--insecure", toml="insecure = false").settings.insecure


def test_files_can_be_taken_back(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.touch()
    loaded = told(environ={"DISPATCHER_TOKENS_FILE": ""}, toml=f"tokens_file = '{tokens}'")
    assert loaded.settings.tokens_file is None
    assert loaded.origins["tokens_file"] == "DISPATCHER_TOKENS_FILE"


def test_lists_repeat_as_flags_and_are_parted_in_variables() -> None:
    assert told("--tools", "a:b", "--tools", "c.d:e.f").settings.tools == ["a:b", "c.d:e.f"]
    assert told(environ={"DISPATCHER_TOOLS": " a:b, c:d,"}).settings.tools == ["a:b", "c:d"]
    assert told(environ={"DISPATCHER_TOOLS": ""}, toml='tools = ["a:b"]').settings.tools == []
    assert told(environ={"DISPATCHER_DENY": "a{1,2}b\n[,]\n"}).settings.deny == ["a{1,2}b", "[,]"]


@pytest.mark.parametrize("name", ["tools", "deny", "http_hosts", "http_origins"])
def test_help_says_of_lists_that_their_flags_repeat(name: str) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser, [name])
    assert "May be given more than once." in " ".join(parser.format_help().split())


def test_what_other_commands_add_to_the_arguments_is_left_alone() -> None:
    assert load(argparse.Namespace(session="x", queue_wait_s="4"), {}).settings.queue_wait_s == 4


# Mistakes, each named with its place


@pytest.mark.parametrize(
    ("flags", "environ", "toml", "origin"),
    [
        (("--queue-wait-s", "long"), {}, None, "--queue-wait-s: 'long'"),
        ((), {"DISPATCHER_QUEUE_WAIT_S": "long"}, None, "DISPATCHER_QUEUE_WAIT_S: 'long'"),
        ((), {}, "queue_wait_s = 'long'", "settings.toml: queue_wait_s: 'long'"),
    ],
)
def test_a_wrong_value_is_named_with_its_origin_and_what_would_be_right(
    flags: tuple[str, ...], environ: dict[str, str], toml: str | None, origin: str
) -> None:
    problem = one_refusal(*flags, environ=environ, toml=toml)
    assert f"{origin} should be a number of seconds from 0 to 3600" in problem


@pytest.mark.parametrize(
    ("flags", "right"),
    [
        (("--credit-packets", "1.5"), "should be a whole number of packets from 1 to 65536"),
        (("--content-mode", "off"), "should be 'enforce' or 'observe'"),
        (("--tools", "math:sqrt", "--tools", "my tools"), "--tools: 'my tools' should be MODULE:OBJECT"),
        (("--tools", "a:b:c"), "should be MODULE:OBJECT"),
        (("--tools", "a:b, c:d"), "; for several, give --tools several times"),
        (
            ("--http-hosts", "a.example,b.example"),
            "e.g. chat.example.com; for several, give --http-hosts several",
        ),
        (("--http-origins", "https://a,https://b"), "; for several, give --http-origins several times"),
        (("--http-poll-s-max", "0"), "should be a number of seconds from 1 to 3600"),
        (("--deny", "(a"), "--deny: '(a' should be an RE2 pattern: missing )"),
        (("--deny", "(\n"), "should be an RE2 pattern"),
        (("--deny", r"(a)\1"), "should be an RE2 pattern"),
        (("--deny", "a*"), "should not match the empty text"),
        (("--deny", "\udcff"), "should be an RE2 pattern in UTF-8"),
        (
            ("--deny-file", "/nowhere/patterns"),
            "'/nowhere/patterns' should be a file that this user can read",
        ),
        (("--deny-file", "/"), "'/' should be a file that this user can read"),
        (("--deny-file", "a\udcffb"), "should be a path in UTF-8"),
        (("--grpc-address", "unix:/x\udcff"), "should be unix: and an absolute path"),
        (("--metrics-address", "unix:/run/metrics"), "metrics are not served on a unix socket"),
    ],
)
def test_what_would_be_right_is_said(flags: tuple[str, ...], right: str) -> None:
    problem = one_refusal(*flags)
    assert problem.startswith(f"{flags[0]}: ")
    assert right in problem


def test_wrong_kinds_in_the_file_are_said() -> None:
    problems = refused(
        toml='tools = "a:b"\ndeny = [1]\ntls_key = 3\ninsecure = "maybe"\n[grpc_address]\nport = 1'
    )
    assert len(problems) == 5
    joined = "\n".join(problems)
    for name in ("tools", "deny", "tls_key", "insecure", "grpc_address"):
        assert f"settings.toml: {name}: " in joined
    assert "insecure: 'maybe' should be true or false" in joined


def test_a_long_value_is_cut() -> None:
    assert len(one_refusal("--tools", "x" * 10_000 + ":")) < 500


def test_all_problems_are_told_at_once() -> None:
    problems = refused(
        "--queue-wait-s=-1",
        "--journal-session-bytes=1000000000",
        environ={"DISPATCHER_CREDIT_PACKETS": "0", "DISPATCHER_LINK_MAX": "3"},
        toml="sesions_max = 3\ntools = ['x:']",
    )
    joined = "\n".join(problems)
    assert len(problems) == 6, joined
    for part in (
        "--queue-wait-s: '-1' should be",
        "DISPATCHER_CREDIT_PACKETS: '0' should be",
        "DISPATCHER_LINK_MAX: there is no such setting; did you mean DISPATCHER_LINKS_MAX?",
        "settings.toml: sesions_max: there is no such setting; did you mean sessions_max?",
        "settings.toml: tools: 'x:' should be MODULE:OBJECT",
        "journal_session_bytes = 1000000000 (--journal-session-bytes), journal_bytes = 536870912 (default): ",
    ):
        assert part in joined


def test_what_is_wrong_by_itself_is_not_blamed_for_a_contradiction_too() -> None:
    assert "must be" not in one_refusal("--detach-grace-s=0", "--heartbeat-interval-s=20")


def test_a_value_that_is_overridden_is_not_judged() -> None:
    assert told("--queue-wait-s", "3", environ={"DISPATCHER_QUEUE_WAIT_S": "long"}).settings.queue_wait_s == 3


@st.composite
def misspelt(draw: st.DrawFn) -> tuple[str, str]:
    """A field's name, and the same with one letter left out, doubled, changed, or two of them swapped."""
    name = draw(st.sampled_from(sorted(FIELDS)))
    at = draw(st.integers(0, len(name) - 2))
    letter = draw(st.sampled_from("abcdefghijklmnopqrstuvwxyz_"))
    before, here, there, after = name[:at], name[at], name[at + 1], name[at + 2 :]
    wrong = draw(
        st.sampled_from(
            (
                before + there + after,
                before + here + here + there + after,
                before + letter + there + after,
                before + there + here + after,
            )
        )
    )
    return name, wrong


def likeness(one: str, other: str) -> float:
    return SequenceMatcher(a=one, b=other).ratio()


@given(misspelt())
def test_a_misspelt_key_is_an_error_with_the_nearest_name(names: tuple[str, str]) -> None:
    meant, wrong = names
    if wrong in FIELDS or wrong == "config":
        return
    problem = one_refusal(toml=f"{wrong} = 1")
    suggested = problem.partition("did you mean ")[2].removesuffix("?")
    assert f"settings.toml: {wrong}: there is no such setting" in problem
    assert suggested == meant or likeness(suggested, wrong) >= likeness(meant, wrong)
    problem = one_refusal(environ={f"DISPATCHER_{wrong.upper()}": "1"})
    assert problem.startswith(
        f"DISPATCHER_{wrong.upper()}: there is no such setting; did you mean DISPATCHER_"
    )


def test_a_key_like_no_other_is_an_error_without_a_guess() -> None:
    assert one_refusal(toml="zzz = 1").endswith("zzz: there is no such setting; --help lists them all")
    assert "did you mean DISPATCHER_CONFIG?" in one_refusal(environ={"DISPATCHER_CONFG": "x"})
    assert "did you mean DISPATCHER_TOOLS?" in one_refusal(environ={"DISPATCHER_tools": "x"})
    assert one_refusal(toml='"a\\nb" = 1').count("a\\nb") == 1


def test_the_value_of_an_unknown_variable_is_not_told() -> None:
    assert "hunter2" not in one_refusal(environ={"DISPATCHER_TOKEN": "hunter2"})


def test_variables_of_kubernetes_services_are_not_ours() -> None:
    services = {
        "DISPATCHER_SERVICE_HOST": "10.0.0.7",
        "DISPATCHER_SERVICE_PORT": "50051",
        "DISPATCHER_SERVICE_PORT_GRPC": "50051",
        "DISPATCHER_PORT": "tcp://10.0.0.7:50051",
        "DISPATCHER_PORT_50051_TCP": "tcp://10.0.0.7:50051",
        "DISPATCHER_PORT_50051_TCP_ADDR": "10.0.0.7",
        "DISPATCHER_METRICS_SERVICE_HOST": "10.0.0.8",
        "DISPATCHER_METRICS_PORT": "tcp://10.0.0.8:9464",
    }
    assert told(environ=services).settings == Settings()
    assert "DISPATCHER_METRICS_PORT: " in one_refusal(environ={"DISPATCHER_METRICS_PORT": "9464"})


def test_a_settings_file_that_can_not_be_used_is_said(tmp_path: Path) -> None:
    missing, latin = tmp_path / "missing.toml", tmp_path / "latin.toml"
    latin.write_bytes('log_format = "ä"'.encode("latin-1"))
    assert (
        one_refusal("--config", str(missing))
        == f"--config: '{missing}' can't be read: No such file or directory"
    )
    assert "can't be read: Is a directory" in one_refusal("--config", str(tmp_path))
    assert f"DISPATCHER_CONFIG: '{latin}' is not TOML in UTF-8" in one_refusal(
        environ={"DISPATCHER_CONFIG": str(latin)}
    )
    assert "is not TOML in UTF-8: " in (problem := one_refusal(toml="a = 1\nqueue_wait_s 3"))
    assert "line 2" in problem
    assert "is not TOML in UTF-8: " in one_refusal(toml="a = " + "[" * 100_000)


# What doesn't go together


@pytest.mark.parametrize(
    ("flags", "fields"),
    [
        (("--tls-certificate=@",), ("tls_certificate", "tls_key")),
        (("--tls-key=@",), ("tls_certificate", "tls_key")),
        (("--tls-client-ca=@",), ("tls_client_ca", "tls_certificate")),
        (("--jwt-jwks=@",), ("jwt_jwks", "jwt_audience")),
        (("--jwt-audience=chat",), ("jwt_audience", "jwt_jwks")),
        (("--jwt-issuer=https://login.example",), ("jwt_issuer", "jwt_jwks")),
        (("--jwt-refresh-s=4000",), ("jwt_stale_s", "jwt_refresh_s")),
        (("--metrics-address=[::]:9464",), ("metrics_address", "metrics_public")),
        (("--metrics-address=127.0.0.1:50051",), ("grpc_address", "metrics_address")),
        (("--http-address=127.0.0.1:9464",), ("http_address", "metrics_address")),
        (
            ("--http-address=0.0.0.0:8080",),
            ("http_address", "tls_certificate", "tls_key", "tokens_file", "jwt_jwks", "insecure"),
        ),
        (("--viewer-coalesce-after-s=6",), ("viewer_coalesce_after_s", "viewer_thin_after_s")),
        (("--heartbeat-interval-s=4",), ("heartbeat_interval_s", "heartbeats_missed", "detach_grace_s")),
        (("--heartbeats-missed=5",), ("heartbeat_interval_s", "heartbeats_missed", "detach_grace_s")),
        (("--detach-grace-s=6",), ("heartbeat_interval_s", "heartbeats_missed", "detach_grace_s")),
        (("--keepalive-time-s=2",), ("ping_timeout_s", "keepalive_time_s")),
        (("--tcp-user-timeout-s=3",), ("tcp_user_timeout_s", "ping_timeout_s")),
        (("--request-bytes-max=1048576",), ("request_bytes_max", "max_message_bytes")),
        (("--tool-output-bytes=1048576",), ("tool_output_bytes", "max_message_bytes")),
        (("--tool-arguments-bytes=1048576",), ("tool_arguments_bytes", "max_message_bytes")),
        (
            ("--credit-packets=1", "--credit-bytes=1048577"),
            ("credit_bytes", "max_message_bytes", "credit_packets"),
        ),
        (("--journal-session-bytes=262143",), ("credit_bytes", "journal_session_bytes")),
        (("--journal-bytes=67108863",), ("journal_session_bytes", "journal_bytes")),
    ],
)
def test_what_does_not_go_together_is_refused_with_all_fields_named(
    flags: tuple[str, ...], fields: tuple[str, ...], tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.touch()
    problem = one_refusal(*(flag.replace("@", str(file)) for flag in flags))
    for name in fields:
        assert f"{name} = " in problem
    for flag in flags:
        assert f"({flag.partition('=')[0]})" in problem


def test_contradictions_are_refused_without_the_loader_too() -> None:
    with pytest.raises(ValidationError, match="journal_session_bytes must be at most journal_bytes"):
        Settings(journal_bytes=1_000_000)


@pytest.mark.parametrize("address", ["192.0.2.1:0", "[::]:50051", "gateway.example:50051"])
def test_other_machines_come_in_only_with_tls_and_tokens_or_insecure(address: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    open_door = f"--grpc-address={address}"
    tls = (f"--tls-certificate={file}", f"--tls-key={file}")
    tokens = f"--tokens-file={file}"
    signed = ("--jwt-jwks=https://login.example/keys", "--jwt-audience=chat")
    for flags in ((), tls, (tokens,), signed):
        problem = one_refusal(open_door, *flags)
        assert f'grpc_address = "{address}" (--grpc-address)' in problem
        for way_out in (
            "127.0.0.1, [::1] or unix:/PATH",
            "tls_certificate, tls_key and tokens_file or jwt_jwks",
            "--insecure",
        ):
            assert way_out in problem
    assert told(open_door, *tls, tokens).settings.grpc_address == address
    assert told(open_door, *tls, *signed).settings.grpc_address == address
    assert told(open_door, "--insecure").settings.grpc_address == address


@pytest.mark.parametrize(
    "address", ["127.0.0.1:0", "127.3.2.1:1", "localhost:50051", "[::1]:50051", "unix:/run/x"]
)
def test_this_machine_comes_in_without_credentials(address: str) -> None:
    assert told("--grpc-address", address).settings.grpc_address == address


def test_metrics_are_open_only_on_purpose() -> None:
    everywhere = "--metrics-address=192.0.2.1:9464"
    assert "--metrics-public" in one_refusal(everywhere)
    assert told(everywhere, "--metrics-public").settings.metrics_public
    assert told(everywhere, "--insecure").settings.insecure
    assert told("--metrics-address=").settings.metrics_address == ""


# Addresses


@pytest.mark.parametrize(
    ("text", "host", "port", "path", "is_local"),
    [
        ("127.0.0.1:50051", "127.0.0.1", 50_051, "", True),
        ("localhost:0", "localhost", 0, "", True),
        ("localhost.example:1", "localhost.example", 1, "", False),
        ("[::1]:65535", "::1", 65_535, "", True),
        ("[2001:db8::1]:1", "2001:db8::1", 1, "", False),
        ("192.0.2.1:1", "192.0.2.1", 1, "", False),
        ("my-host_1.example:1", "my-host_1.example", 1, "", False),
        ("unix:/run/a b.sock", "", 0, "/run/a b.sock", True),
    ],
)
def test_addresses(text: str, host: str, port: int, path: str, is_local: bool) -> None:
    address = parse_address(text)
    assert (address.host, address.port, address.path, address.is_local) == (host, port, path, is_local)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "127.0.0.1",
        "50051",
        ":50051",
        "127.0.0.1:",
        "127.0.0.1:65536",
        "127.0.0.1:-1",
        "127.0.0.1:٣",
        "127.0.0.256:1",
        "::1:50051",
        "[::1]",
        "[::g]:1",
        "[127.0.0.1]:1",
        "http://localhost:1",
        "localhost:1\n",
        "*:1",
        "unix:run/x",
        "unix:",
        "unix:/\0",
        "unix:/" + "x" * 107,
    ],
)
def test_what_is_no_address_is_said(text: str) -> None:
    with pytest.raises(ValueError, match=r"should be (HOST:PORT|unix:)"):
        parse_address(text)


@pytest.mark.parametrize(
    "place",
    [
        "keys.json",
        "/etc/chat/ä b.json",
        "https://login.example/.well-known/jwks.json",
        "HTTPS://login.example:8443/keys?v=1",
        "http://localhost:8080/keys",
        "http://127.0.0.1/keys",
        "http://[::1]:1/keys",
    ],
)
def test_where_the_keys_of_signed_tokens_may_be(place: str) -> None:
    assert told("--jwt-jwks", place, "--jwt-audience", "chat").settings.jwt_jwks == place


@pytest.mark.parametrize(
    "place",
    [
        "http://login.example/keys",
        "http://192.0.2.1/keys",
        "http://localhost.example/keys",
        "http://127.0.0.1@login.example/keys",
        "https://me:hunter2@login.example/keys",
        "https://me@login.example/keys",
        "https:///keys",
        "https://",
        "https://login.example:many/keys",
        "https://login.example/ke ys",
        "https://[::1/keys",
        "file:///etc/keys.json",
        "ftp://login.example/keys",
        "://x",
        "a\nb",
        "https://login.example/\x00",
    ],
)
def test_where_the_keys_of_signed_tokens_may_not_be(place: str) -> None:
    problem = one_refusal("--jwt-jwks", place, "--jwt-audience", "chat")
    assert (
        "should be a file, or an https address without a password; http is right for this machine" in problem
    )


def test_words_of_signed_tokens_have_no_control_characters() -> None:
    signed = ("--jwt-jwks=keys.json", "--jwt-audience=chat")
    assert "should have no control characters" in one_refusal(*signed, "--jwt-issuer=a\nb")


# Printing


def test_each_value_is_printed_with_its_origin_and_no_file_with_its_content(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("hunter2")
    loaded = told("--tokens-file", str(tokens), environ={"DISPATCHER_LINKS_MAX": "7"}, toml="deny = ['x']")
    printed = render(loaded)
    assert f'tokens_file = "{tokens}"  # --tokens-file\n' in printed
    assert "links_max = 7  # DISPATCHER_LINKS_MAX\n" in printed
    assert "settings.toml: deny\n" in printed
    assert "insecure = false  # default\n" in printed
    assert "hunter2" not in printed
    assert list(tomllib.loads(printed)) == list(FIELDS)


def test_a_strange_origin_stays_in_its_comment() -> None:
    origins = dict.fromkeys(FIELDS, "a\nb\x00c.toml: x")
    assert told(toml=render(Loaded(Settings(), origins))).settings == Settings()


# Numbers that stand in contradictions keep their defaults here: which go together is tested above.
FREE_NUMBERS = [
    name
    for name in NUMBERS
    if not name.startswith(
        ("heartbeat", "keepalive", "ping", "tcp", "credit", "max_message", "request_bytes", "viewer_", "jwt_")
    )
    and "_cost_dollars" not in name
    and name not in ("detach_grace_s", "journal_bytes", "journal_session_bytes", "tool_output_bytes")
    and name != "tool_arguments_bytes"
]
TEXTS = st.text(min_size=1, max_size=20)


def value_of(name: str) -> st.SearchStrategy[int] | st.SearchStrategy[float]:
    bounds = FIELDS[name].metadata
    least: Any = next(bound.ge for bound in bounds if isinstance(bound, Ge))
    most: Any = next(bound.le for bound in bounds if isinstance(bound, Le))
    return st.integers(least, most) if FIELDS[name].annotation is int else st.floats(least, most)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            **{name: value_of(name) for name in FREE_NUMBERS},
            "deny": st.lists(TEXTS.map(re2.escape), max_size=3),
            "tools": st.lists(st.sampled_from(["a:b", "ä.b:c.d"]), max_size=3),
            "insecure": st.booleans(),
            "grpc_address": st.sampled_from(["127.0.0.1:0", "[::1]:1", "unix:/tmp/ä b"]),
            "log_level": st.sampled_from(["debug", "error"]),
            "deny_mode": st.sampled_from(["enforce", "observe"]),
        },
    ),
    TEXTS,
)
def test_what_is_printed_loads_as_the_same(values: dict[str, object], origin: str) -> None:
    settings = Settings.model_validate(values)
    again = told(toml=render(Loaded(settings, dict.fromkeys(FIELDS, origin))))
    assert again.settings == settings


@given(st.text(min_size=1, max_size=30).filter(lambda text: text.isprintable() and "/" not in text))
def test_paths_are_printed_so_that_they_load(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x" + name)
        path.touch()
        loaded = told(f"--deny-file={path}")
        assert told(toml=render(loaded)).settings.deny_file == path


# Changing limits while it runs


def test_limits_are_changed_all_or_none() -> None:
    loaded = told("--queue-wait-s", "7")
    changed = change(loaded, {"sessions_max": 5.0, "content_mode": "observe"})
    assert changed.settings.sessions_max == 5
    assert changed.settings.content_mode == "observe"
    assert changed.origins["sessions_max"] == "SetLimits: sessions_max"
    assert (changed.settings.queue_wait_s, changed.origins["queue_wait_s"]) == (7.0, "--queue-wait-s")
    assert loaded.settings.sessions_max == 10_000


def test_limits_change_even_when_a_file_has_gone(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.touch()
    loaded = told(f"--tokens-file={tokens}")
    tokens.unlink()
    assert change(loaded, {"sessions_max": 5.0}).settings.tokens_file == tokens


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"sessions_max": 0.0}, "SetLimits: sessions_max: 0 should be a whole number of sessions from 1"),
        ({"sessions_max": 1.5, "queue_wait_s": 1.0}, "SetLimits: sessions_max: 1.5 should be a whole number"),
        ({"queue_wait": 1.0}, "queue_wait: there is no such setting; did you mean queue_wait_s?"),
        ({"links_max": 1.0}, "links_max: it can't be changed while the dispatcher runs"),
        ({"total_time_mode": "off"}, "SetLimits: total_time_mode: 'off' should be 'enforce' or 'observe'"),
        (
            {"journal_bytes": 1e6},
            "journal_bytes = 1000000 (SetLimits: journal_bytes): one session can't have",
        ),
    ],
)
def test_a_change_that_is_wrong_is_said(changes: dict[str, float | str], problem: str) -> None:
    with pytest.raises(SettingsError) as caught:
        change(told(), changes)
    assert problem in str(caught.value)
