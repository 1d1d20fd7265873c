"""The commander's settings: the table is complete, origins are named, nonsense is refused in words.

The loader is the dispatcher's, word for word, and tested in depth there; a test holds the copies together.
"""

import argparse
import inspect
import tempfile
import tomllib
from collections.abc import Mapping
from difflib import SequenceMatcher
from pathlib import Path

import pytest
from annotated_types import Ge, Le
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import commander.settings
import dispatcher.settings
from commander.settings import Loaded, Settings, SettingsError, add_arguments, load, metavar, render

FIELDS = Settings.model_fields
NUMBERS = [name for name, field in FIELDS.items() if field.annotation in (int, float)]
UNITS = {
    "SECONDS",
    "BYTES",
    "PACKETS",
    "CHARACTERS",
    "HEARTBEATS",
    "MEMBERS",
    "MESSAGES",
    "SLOTS",
    "FAILURES",
}


def told(*flags: str, environ: Mapping[str, str] | None = None, toml: str | None = None) -> Loaded:
    """What a commander started so would be told. `toml` stands in settings.toml of a folder of its own."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_arguments(parser, Settings.model_fields)
    with tempfile.TemporaryDirectory() as folder:
        if toml is not None:
            path = Path(folder, "settings.toml")
            path.write_text(toml, encoding="utf-8", newline="")
            flags = (*flags, "--config", str(path))
        return load(parser.parse_args(flags), environ or {})


def one_refusal(*flags: str, environ: Mapping[str, str] | None = None, toml: str | None = None) -> str:
    with pytest.raises(SettingsError) as caught:
        told(*flags, environ=environ, toml=toml)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# One loader


def test_both_services_have_the_same_loader() -> None:
    def loader(source: str) -> str:
        return source.partition("\n# The loader\n")[2].partition("\n\n\ndef change(")[0].strip()

    ours, theirs = inspect.getsource(commander.settings), inspect.getsource(dispatcher.settings)
    assert loader(ours)
    assert loader(ours) == loader(theirs)


@pytest.mark.parametrize("name", ["SettingsError", "ContradictionError", "Address", "parse_address"])
def test_both_services_read_addresses_alike(name: str) -> None:
    ours, theirs = getattr(commander.settings, name), getattr(dispatcher.settings, name)
    assert inspect.getsource(ours) == inspect.getsource(theirs)


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
    assert [bound for bound in FIELDS[name].metadata if isinstance(bound, Ge)]
    assert [bound for bound in FIELDS[name].metadata if isinstance(bound, Le)]
    for outside in ("-1", "1e300", "nan", "many"):
        assert "should be a" in one_refusal(f"--{name.replace('_', '-')}={outside}")
    assert f"settings.toml: {name}: True should be a" in one_refusal(toml=f"{name} = true")


def test_both_sides_agree_by_default() -> None:
    ours, theirs = Settings(), dispatcher.settings.Settings()
    for name in ("heartbeat_interval_s", "heartbeats_missed", "keepalive_time_s", "max_message_bytes"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.dispatcher == theirs.grpc_address
    # A packet can't be larger than what a session may have under way.
    assert ours.packet_bytes_max <= theirs.credit_bytes
    # The commander's bound is for strangers: what its dispatcher lets through never comes to it.
    assert ours.messages_waiting_max > theirs.messages_waiting_max


# Where a value comes from


def test_a_flag_wins_over_a_variable_and_a_variable_over_the_file() -> None:
    toml = "slots = 1\noutbox_packets = 1\nstop_grace_s = 1"
    environ = {"COMMANDER_SLOTS": "2", "COMMANDER_OUTBOX_PACKETS": "2", "DISPATCHER_NONSENSE": "1"}
    loaded = told("--slots", "3", environ=environ, toml=toml)
    settings, origins = loaded.settings, loaded.origins
    assert (settings.slots, origins["slots"]) == (3, "--slots")
    assert (settings.outbox_packets, origins["outbox_packets"]) == (2, "COMMANDER_OUTBOX_PACKETS")
    assert settings.stop_grace_s == 1
    assert origins["stop_grace_s"].endswith("settings.toml: stop_grace_s")
    assert (settings.blocked_after_s, origins["blocked_after_s"]) == (1.0, "default")


@pytest.mark.parametrize(
    ("flags", "environ", "toml"),
    [
        (("--labels", "region=eu", "--labels", "gpu=a100"), {}, None),
        ((), {"COMMANDER_LABELS": "region=eu, gpu=a100"}, None),
        ((), {}, "[labels]\nregion = 'eu'\ngpu = 'a100'"),
    ],
)
def test_labels_come_as_pairs_or_as_a_table(
    flags: tuple[str, ...], environ: dict[str, str], toml: str | None
) -> None:
    assert told(*flags, environ=environ, toml=toml).settings.labels == {"region": "eu", "gpu": "a100"}


@pytest.mark.parametrize(
    ("flags", "environ", "toml", "origin"),
    [
        (("--slots", "0"), {}, None, "--slots: '0'"),
        ((), {"COMMANDER_SLOTS": "0"}, None, "COMMANDER_SLOTS: '0'"),
        ((), {}, "slots = 0", "settings.toml: slots: 0"),
    ],
)
def test_a_wrong_value_is_named_with_its_origin_and_what_would_be_right(
    flags: tuple[str, ...], environ: dict[str, str], toml: str | None, origin: str
) -> None:
    problem = one_refusal(*flags, environ=environ, toml=toml)
    assert f"{origin} should be a whole number of slots from 1 to 10000" in problem


@pytest.mark.parametrize(
    ("flags", "right"),
    [
        (("--dispatcher", "gateway"), "should be HOST:PORT"),
        (("--dispatcher", "gateway:0"), "should have a port from 1 to 65535"),
        (("--commander-id", "two words"), "should have at most 128 characters"),
        (("--commander-id", "x" * 129), "should have at most 128 characters"),
        (("--labels", "region"), "should be KEY=VALUE"),
        (("--labels", "a=1", "--labels", "a=2"), "each key once"),
        (("--labels", "=eu"), "should have 1 to 128 characters"),
        (("--labels", "region="), "should have 1 to 128 characters"),
        (("--labels", "region=eu,us"), "none of them a comma"),
        (("--labels", "region=e\nu"), "or a control character"),
        (("--token-file", "/nowhere/token"), "should be a file that this user can read"),
        (("--metrics-address", "unix:/run/x"), "metrics are not served on a unix socket"),
        (("--event-loop", "trio"), "should be 'auto', 'asyncio' or 'uvloop'"),
    ],
)
def test_what_would_be_right_is_said(flags: tuple[str, ...], right: str) -> None:
    problem = one_refusal(*flags)
    assert problem.startswith(f"{flags[0]}: ")
    assert right in problem


def test_too_many_labels_are_refused() -> None:
    labels = ",".join(f"label{number}=x" for number in range(65))
    assert "should have at most 64 items" in one_refusal(environ={"COMMANDER_LABELS": labels})


@given(st.sampled_from(sorted(FIELDS)).filter(lambda name: len(name) > 3), st.data())
def test_a_misspelt_key_is_an_error_with_the_nearest_name(meant: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(meant) - 1))
    wrong = meant[:at] + data.draw(st.sampled_from(("", "x", meant[at] * 2))) + meant[at + 1 :]
    if wrong in FIELDS:
        return
    problem = one_refusal(toml=f"{wrong} = 1")
    suggested = problem.partition("did you mean ")[2].removesuffix("?")
    assert f"settings.toml: {wrong}: there is no such setting" in problem
    near = [SequenceMatcher(a=name, b=wrong).ratio() for name in (suggested, meant)]
    assert suggested == meant or near[0] >= near[1]
    assert "did you mean COMMANDER_" in one_refusal(environ={f"COMMANDER_{wrong.upper()}": "1"})


# What doesn't go together


@pytest.mark.parametrize(
    ("flags", "fields"),
    [
        (("--tls", "--tls-certificate=@"), ("tls_certificate", "tls_key")),
        (("--tls", "--tls-key=@"), ("tls_certificate", "tls_key")),
        (("--tls-ca=@",), ("tls_ca", "tls")),
        (("--tls-certificate=@", "--tls-key=@"), ("tls_certificate", "tls")),
        (("--metrics-address=192.0.2.1:9464",), ("metrics_address", "metrics_public")),
        (("--keepalive-time-s=2",), ("ping_timeout_s", "keepalive_time_s")),
        (("--tcp-user-timeout-s=3",), ("tcp_user_timeout_s", "ping_timeout_s")),
        (("--reconnect-first-s=6",), ("reconnect_first_s", "reconnect_max_s")),
        (
            ("--packet-bytes-max=65536", "--max-message-bytes=65536"),
            ("packet_bytes_max", "max_message_bytes"),
        ),
        (("--outbox-bytes=16383",), ("packet_bytes_max", "outbox_bytes")),
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


def test_contradictions_are_refused_without_the_loader_too() -> None:
    with pytest.raises(ValidationError, match="reconnect_first_s must be at most reconnect_max_s"):
        Settings(reconnect_first_s=6.0)


def test_a_token_never_crosses_a_network_in_plain_text(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("hunter2")
    with_token = f"--token-file={token}"
    for address in ("192.0.2.1:50051", "gateway.example:50051", "[2001:db8::1]:50051"):
        problem = one_refusal(with_token, f"--dispatcher={address}")
        assert f'token_file = "{token}" (--token-file), dispatcher = "{address}" (--dispatcher)' in problem
        assert "--tls" in problem
        assert "hunter2" not in problem
        assert told(with_token, f"--dispatcher={address}", "--tls").settings.tls
        assert told(f"--dispatcher={address}").settings.token_file is None
    for address in ("127.0.0.1:1", "[::1]:1", "localhost:1", "unix:/run/chat.sock"):
        assert told(with_token, f"--dispatcher={address}").settings.token_file == token


# Printing


def test_each_value_is_printed_with_its_origin_and_no_file_with_its_content(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("hunter2")
    printed = render(told("--token-file", str(token), "--labels", "a=b", environ={"COMMANDER_SLOTS": "7"}))
    assert f'token_file = "{token}"  # --token-file\n' in printed
    assert 'labels = {"a" = "b"}  # --labels\n' in printed
    assert "slots = 7  # COMMANDER_SLOTS\n" in printed
    assert "hunter2" not in printed
    assert list(tomllib.loads(printed)) == list(FIELDS)


LABELS = st.text(min_size=1, max_size=20).filter(
    lambda text: text.isprintable() and not {",", "="} & set(text)
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "labels": st.dictionaries(LABELS, LABELS, max_size=3),
            "commander_id": LABELS.filter(lambda text: " " not in text),
            "slots": st.integers(1, 10_000),
            "blocked_after_s": st.floats(0.1, 60),
            "unlinked_keep_s": st.floats(0, 3600),
            "dispatcher": st.sampled_from(["gateway:1", "[::1]:1", "unix:/tmp/ä b"]),
            "tls": st.booleans(),
            "log_format": st.sampled_from(["text", "json"]),
        },
    )
)
def test_what_is_printed_loads_as_the_same(values: dict[str, object]) -> None:
    settings = Settings.model_validate(values)
    again = told(toml=render(Loaded(settings, dict.fromkeys(FIELDS, "a flag"))))
    assert again.settings == settings
