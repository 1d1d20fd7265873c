"""The tables of the settings file: each mistake is one line that names file, table and key, and never a secret."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_dispatcher_settings import one_refusal, refused, told

from dispatcher.settings import change, render
from dispatcher.tables import GrpcTable, McpTable, Secret, SecretError, secrets_of

FILES = '[mcp.files]\ncommand = ["npx", "files"]\n'


def test_tables_stand_beside_the_settings() -> None:
    loaded = told(toml="links_max = 7\n" + FILES + "timeout_s = 3\n")
    table = loaded.tables["mcp"]["files"]
    assert isinstance(table, McpTable)
    assert (table.command, table.timeout_s, table.prefix_of("files")) == (["npx", "files"], 3, "files_")
    assert loaded.settings.links_max == 7
    assert change(loaded, {"sessions_max": 5.0}).tables == loaded.tables


def test_tables_are_printed_so_that_they_load_and_without_secrets() -> None:
    env = 'env = { A = { env = "B", before = "x " }, C = { file = "/run/c" } }\n'
    loaded = told(toml=FILES + env)
    assert told(toml=render(loaded)).tables == loaded.tables
    literal = told(toml='[mcp.crm]\nurl = "https://a.example/mcp"\nheaders = { Authorization = "hunter2" }')
    assert "hunter2" not in render(literal)
    assert "hunter2" not in repr(literal)


@pytest.mark.parametrize(
    ("toml", "problem"),
    [
        ("mcp = 3", "settings.toml: mcp: should be tables with a name each, e.g. [mcp.mine]"),
        ("[mcp]\nfiles = 3", "settings.toml: mcp: should be tables with a name each"),
        ('[mcp."a b"]\ncommand=["x"]', "settings.toml: mcp.a b: its name should have 1 to 64 letters"),
        ("[mcp.a]", "settings.toml: mcp.a: should have either command"),
        ('[mcp.a]\ncommand=["x"]\nurl="http://b"', "settings.toml: mcp.a: should have either command"),
        (
            '[mcp.a]\ncomand=["x"]\nurl="http://b"',
            "mcp.a.comand: there is no such key; did you mean command?",
        ),
        ('[mcp.a]\ncommand="x"', "settings.toml: mcp.a.command: should be a valid list"),
        ("[mcp.a]\ncommand=[1]", "settings.toml: mcp.a.command[0]: should be a valid string"),
        ('[mcp.a]\nurl="ftp://b"', "mcp.a.url: should be an http or https address"),
        (
            '[mcp.a]\nurl="https://ada:hunter2@b"',
            "mcp.a.url: should be an http or https address without a password",
        ),
        ('[mcp.a]\nurl="http://b"\nprefix="a b"', "mcp.a.prefix: should have at most 32 letters"),
        ('[mcp.a]\nurl="http://b"\nenv={A="x"}', "mcp.a: env and cwd are for a command's process"),
        ('[mcp.a]\ncommand=["x"]\nheaders={A="x"}', "mcp.a: headers go to a url"),
        ('[mcp.a]\ncommand=["x"]\nenv={"a b"="x"}', "mcp.a.env.a b: should be the name of a variable"),
        ('[mcp.a]\nurl="http://b"\nheaders={"a b"="x"}', "mcp.a.headers.a b: should be the name of a header"),
        ('[mcp.a]\ncommand=["x"]\nenv={A={}}', "mcp.a.env.A: should be a text, or { env"),
        ('[mcp.a]\ncommand=["x"]\nenv={A={env="a b"}}', "mcp.a.env.A: should name a variable"),
        ('[mcp.a]\ncommand=["x"]\ntimeout_s=0', "mcp.a.timeout_s: should be greater than or equal to 0.05"),
        (
            '[mcp.a]\ncommand=["x"]\nrestart_backoff_s=9\nrestart_backoff_max_s=8',
            "should be at least restart_back",
        ),
        ("[http.a]", "settings.toml: http.a.openapi: is missing"),
        ('[http.a]\nopenapi="ftp://x"', "http.a: should be an http or https address"),
        (
            '[http.a]\nopenapi="x"\nallow_hosts=["http://b"]',
            "http.a.allow_hosts[0]: should be the name or address",
        ),
        ('[http.a]\nopenapi="x"\ntls_ca="/no/ca"', "http.a: tls_ca should be a file that this user can read"),
        ('[http.a]\nopenapi="x"\ntls_ca="/dev/null"', "can read, with certificates in PEM"),
        ('[grpc.a]\nservice="x.Y"\naddress="b:1"\ntls_ca="/dev/null"', "can read, with certificates in PEM"),
        ('[grpc.a]\nservice="x.Y"', "grpc.a.address: is missing"),
        ('[grpc.a]\nservice="x.Y"\naddress="b"', "grpc.a.address: should be HOST:PORT, [IPV6]:PORT"),
        (
            '[grpc.a]\nservice="x.Y"\naddress="b:1"\ntls=false\nheaders={A="x"}',
            "grpc.a: headers would be sent in the clear",
        ),
        (
            '[grpc.a]\nservice="x.Y"\naddress="127.b.example:1"\ntls=false\nheaders={A="x"}',
            "grpc.a: headers would be sent in the clear",
        ),
        (
            '[mcp.a]\nurl="http://b/mcp"\nheaders={A="hunter2"}',
            "mcp.a: headers would be sent in the clear: https is right, or a server of this machine",
        ),
        ('[grpc.a]\nservice="x.Y"\naddress="b:1"\ntls=false\ntls_ca="x"', "grpc.a: tls_ca is for tls = true"),
        ("[mpc.a]", "settings.toml: mpc: there is no such setting; did you mean mcp?"),
        (
            "[mcp.box]\ncommand = 'python box.py'",
            'mcp.box.command: should be a valid list, e.g. ["one", "two"]',
        ),
        ("[tools.clock]\nask = true", "tools: is a setting, and no table; did you mean [tool.NAME]?"),
    ],
)
def test_each_mistake_is_named(toml: str, problem: str) -> None:
    said = one_refusal(toml=toml)
    assert problem in said
    assert "hunter2" not in said


@pytest.mark.parametrize("here", ["localhost", "LOCALHOST", "127.0.0.1", "127.8.9.10", "[::1]"])
def test_secrets_may_stay_on_this_machine_in_the_clear(here: str) -> None:
    headers = {"A": "x"}
    McpTable.model_validate({"url": f"http://{here}:1/mcp", "headers": headers})
    GrpcTable.model_validate({"address": f"{here}:1", "service": "x.Y", "tls": False, "headers": headers})


def test_mistakes_of_all_tables_and_settings_are_told_at_once() -> None:
    assert len(refused(toml='links_max = 0\n[mcp.a]\n[mcp.b]\nx = 1\nurl = "http://a"')) == 3


def test_secrets_are_read_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRM_TOKEN", "hunter2")
    path = tmp_path / "token"
    path.write_text("  swordfish\n")
    secrets = {
        "a": Secret(text="plain"),
        "b": Secret(env="CRM_TOKEN", before="Bearer "),
        "c": Secret(file=path),
    }
    assert secrets_of(secrets, "") == {"a": "plain", "b": "Bearer hunter2", "c": "swordfish"}
    path.write_text("changed")
    assert secrets["c"].read() == "changed"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "can't be read: No such file"),
        (b"\xff", "not text in UTF-8"),
        (b" ", "is empty"),
        (b"a\nb", "control"),
    ],
)
def test_a_secret_that_is_no_secret_is_said_to_be_so(
    tmp_path: Path, content: bytes | None, problem: str
) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SecretError, match=problem) as caught:
        secrets_of({"Authorization": Secret(file=path)}, "mcp.crm.headers")
    assert str(caught.value).startswith("mcp.crm.headers.Authorization: ")


def test_a_header_is_ascii_and_a_variable_need_not_be() -> None:
    secrets = {"A": Secret(text="é")}
    assert secrets_of(secrets, "mcp.a.env", is_header=False) == {"A": "é"}
    with pytest.raises(SecretError, match=r"mcp\.a\.headers\.A: it goes into a header; ASCII alone"):
        secrets_of(secrets, "mcp.a.headers")


def test_a_variable_that_is_not_set_is_named() -> None:
    assert "NO_SUCH_TOKEN" not in os.environ
    with pytest.raises(SecretError, match="the variable NO_SUCH_TOKEN is not set"):
        Secret(env="NO_SUCH_TOKEN").read()


@given(st.text(min_size=1).filter(lambda text: "*" not in text))
def test_no_secret_is_shown(text: str) -> None:
    assert repr(Secret(text=f"<{text}>")).count(f"<{text}>") == 0
    assert Secret(text=text).model_dump_json() == '"***"'
