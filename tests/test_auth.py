"""Who may come in: tokens by role and service, files that can't be used, and TLS."""

import asyncio
import contextlib
import hashlib
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from asynchronous import asynchronous, soon
from chat_viewer import conversing
from console_server import run_cli
from dialling import LINK_METHOD, Status, bearing, dialled, status_of
from dispatcher_process import DispatcherProcess, running_dispatcher, serve_and_fail
from google.protobuf.message import Message
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from scripted_commander import Up, hello, linked, unique
from southwest.ai.agent.v1 import admin_pb2, admin_pb2_grpc, agent_pb2, chat_pb2, chat_pb2_grpc

from dispatcher.auth import TokensError, load_tokens

UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
DENIED = grpc.StatusCode.PERMISSION_DENIED
OK = grpc.StatusCode.OK

# What each of them presents; the file holds their hashes alone.
SECRETS = {role: f"secret-of-{role}" for role in ("commander", "application", "admin")}


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _entry(role: str, secret: str, name: str = "") -> str:
    return f'[[tokens]]\nname = "{name or role + "-1"}"\nrole = "{role}"\nsha256 = "{_hash(secret)}"\n'


@pytest.fixture(scope="module")
def dispatcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DispatcherProcess]:
    """A dispatcher that wants tokens."""
    path = tmp_path_factory.mktemp("tokens") / "tokens.toml"
    path.write_text("\n".join(_entry(role, secret) for role, secret in SECRETS.items()))
    with running_dispatcher("--tokens-file", str(path), "--log-level", "debug") as process:
        yield process
        said = "\n".join(process.log)
        for secret in SECRETS.values():
            assert secret not in said
            assert _hash(secret) not in said


# --- each role and each service --------------------------------------------------------------------------

Metadata = tuple[tuple[str, str], ...]


async def _said(call: Any, *messages: bytes | Message) -> Status:
    """How a stream ends on which this is said, after the first has its answer. A refused stream is over by then,
    and what is written to it after that would hide its status."""
    with contextlib.suppress(aio.AioRpcError, asyncio.InvalidStateError):
        for number, message in enumerate(messages):
            await call.write(message)
            if number == 0 and await call.read() is aio.EOF:
                break
        await call.done_writing()
        while await call.read() is not aio.EOF:
            pass
    return await soon(status_of(call))


async def _link(channel: aio.Channel, metadata: Metadata) -> Status:
    call: Any = channel.stream_stream(LINK_METHOD)(metadata=metadata)
    greeting = Up(hello=hello("agent", commander_id=unique("c")))
    goodbye = Up(goodbye=agent_pb2.Goodbye())
    return await _said(call, greeting.SerializeToString(), goodbye.SerializeToString())


async def _converse(channel: aio.Channel, metadata: Metadata) -> Status:
    call: Any = chat_pb2_grpc.ChatStub(channel).Converse(metadata=metadata)
    return await _said(call)


async def _subscribe(channel: aio.Channel, metadata: Metadata) -> Status:
    request = chat_pb2.SubscribeRequest(session_id="s-no")
    return await status_of(chat_pb2_grpc.ChatStub(channel).Subscribe(request, metadata=metadata))


async def _list_agents(channel: aio.Channel, metadata: Metadata) -> Status:
    request = chat_pb2.ListAgentsRequest()
    return await status_of(chat_pb2_grpc.ChatStub(channel).ListAgents(request, metadata=metadata))


async def _get_limits(channel: aio.Channel, metadata: Metadata) -> Status:
    request = admin_pb2.GetLimitsRequest()
    return await status_of(admin_pb2_grpc.AdminStub(channel).GetLimits(request, metadata=metadata))


async def _watch(channel: aio.Channel, metadata: Metadata) -> Status:
    request = admin_pb2.WatchSessionRequest(session_id="s-no")
    return await status_of(admin_pb2_grpc.AdminStub(channel).WatchSession(request, metadata=metadata))


async def _health(channel: aio.Channel, metadata: Metadata) -> Status:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    return await status_of(stub.Check(health_pb2.HealthCheckRequest(), metadata=metadata))


async def _reflection(channel: aio.Channel, metadata: Metadata) -> Status:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(cast("Any", channel))
    call = stub.ServerReflectionInfo(metadata=metadata)
    return await _said(call, reflection_pb2.ServerReflectionRequest(list_services=""))


# How to call it, who may, and the status of those who may.
CALLS: dict[str, tuple[Callable[[aio.Channel, Metadata], Awaitable[Status]], set[str], grpc.StatusCode]] = {
    "ChatStream": (_link, {"commander"}, OK),
    "Converse": (_converse, {"application", "admin"}, OK),
    "Subscribe": (_subscribe, {"application", "admin"}, grpc.StatusCode.NOT_FOUND),
    "ListAgents": (_list_agents, {"application", "admin"}, OK),
    "GetLimits": (_get_limits, {"admin"}, OK),
    "WatchSession": (_watch, {"admin"}, grpc.StatusCode.NOT_FOUND),
    "Health": (_health, {"commander", "application", "admin", "", "wrong"}, OK),
    "Reflection": (_reflection, {"commander", "application", "admin"}, OK),
}


@pytest.mark.parametrize("who", ["commander", "application", "admin", "wrong", ""])
@pytest.mark.parametrize("what", CALLS)
def test_each_role_and_each_service(dispatcher: DispatcherProcess, what: str, who: str) -> None:
    call, allowed, served = CALLS[what]

    @asynchronous
    async def scene() -> None:
        async with dialled(dispatcher.address) as channel:
            status = await call(channel, bearing(SECRETS.get(who, who)))
            if who in allowed:
                assert status.code is served
            elif who in SECRETS:
                assert status.code is DENIED
                assert f"the token '{who}-1' has role {who}" in status.details
                for role in allowed:
                    assert role in status.details
            else:
                assert status == (
                    UNAUTHENTICATED,
                    "send metadata `authorization: Bearer <token>` with a token that this dispatcher knows",
                )

    scene()


HEADERS: dict[str, tuple[Metadata, grpc.StatusCode]] = {
    "any case": ((("authorization", f"bEARER   {SECRETS['admin']} "),), OK),
    "another scheme": ((("authorization", f"Basic {SECRETS['admin']}"),), UNAUTHENTICATED),
    "the bare token": ((("authorization", SECRETS["admin"]),), UNAUTHENTICATED),
    "an empty token": ((("authorization", "Bearer "),), UNAUTHENTICATED),
    "the hash": ((("authorization", f"Bearer {_hash(SECRETS['admin'])}"),), UNAUTHENTICATED),
    "half of it": ((("authorization", f"Bearer {SECRETS['admin'][:-1]}"),), UNAUTHENTICATED),
    "another header": ((("x-authorization", f"Bearer {SECRETS['admin']}"),), UNAUTHENTICATED),
}


@pytest.mark.parametrize("how", HEADERS)
def test_how_a_token_is_presented(dispatcher: DispatcherProcess, how: str) -> None:
    metadata, code = HEADERS[how]

    @asynchronous
    async def scene() -> None:
        async with dialled(dispatcher.address) as channel:
            assert (await _get_limits(channel, metadata)).code is code

    scene()


@asynchronous
async def test_methods_that_do_not_exist(dispatcher: DispatcherProcess) -> None:
    async with dialled(dispatcher.address) as channel:
        for path in ("/no.such.Service/Method", "/", "/x"):
            call: Any = channel.unary_unary(path)
            assert (await status_of(call(b""))).code is grpc.StatusCode.UNIMPLEMENTED


@asynchronous
async def test_whose_token_it_was_is_who_stopped_it(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with (
        linked(dispatcher.address, agent, token=SECRETS["commander"]) as link,
        conversing(dispatcher.address, token=SECRETS["application"]) as talk,
        dialled(dispatcher.address) as channel,
    ):
        admin = admin_pb2_grpc.AdminStub(channel)
        seen = await talk.ask(agent)
        turn = await link.started()
        stop = admin_pb2.StopSessionRequest(session_id=turn.session_id, actor="somebody else")
        await admin.StopSession(stop, metadata=bearing(SECRETS["admin"]))
        assert (await turn.stopped()).actor == "admin:admin-1"
        assert (await seen.ended()).stop.actor == "admin:admin-1"
        await talk.ask(agent, client_ref="2")
        turn = await link.started()
        await talk.request("2", stop=chat_pb2.StopAsked())
        assert (await turn.stopped()).actor == "application:application-1"


# --- files that can't be used ----------------------------------------------------------------------------

HASH = _hash("x")
FILES = {
    "no TOML": ("tokens: []", "can't be read as TOML"),
    "empty": ("", "should hold [[tokens]] tables and nothing else"),
    "no tokens": ("tokens = []", "should hold [[tokens]] tables and nothing else"),
    "more than tokens": (
        _entry("admin", "x") + "[more]\nx = 1",
        "should hold [[tokens]] tables and nothing else",
    ),
    "no role": (f'[[tokens]]\nname = "n"\nsha256 = "{HASH}"', "token 1: should have name, role and sha256"),
    "a secret in it": (
        _entry("admin", "x") + 'token = "hush"',
        "token 1: should have name, role and sha256, and nothing else",
    ),
    "no name": (
        f'[[tokens]]\nname = ""\nrole = "admin"\nsha256 = "{HASH}"',
        "token 1: name should be a text",
    ),
    "an unknown role": (
        _entry("admin", "x") + _entry("king", "x", "n"),
        "token 2 (n): role should be one of commander, application, admin",
    ),
    "a short hash": (
        f'[[tokens]]\nname = "n"\nrole = "admin"\nsha256 = "{HASH[:-2]}"',
        "token 1 (n): sha256 should be 64 hexadecimal digits",
    ),
    "no hash": (
        '[[tokens]]\nname = "n"\nrole = "admin"\nsha256 = "hush, the token itself"',
        "token 1 (n): sha256 should be 64 hexadecimal digits",
    ),
    "the hash of nothing": (_entry("admin", ""), "token 1 (admin-1): sha256 is of no token at all"),
    "an admin that is a user": (
        _entry("admin", "x") + 'user = "alice"',
        "token 1 (admin-1): user goes with the role application alone",
    ),
    "a commander that is a user": (
        _entry("commander", "x") + 'user = ""',
        "token 1 (commander-1): user goes with the role application alone",
    ),
    "a user without an id": (
        _entry("application", "x") + 'user = ""',
        "token 1 (application-1): user should be a text of 1 to 256 printable characters",
    ),
    "a user by number": (
        _entry("application", "x") + "user = 7",
        "token 1 (application-1): user should be a text of 1 to 256 printable characters",
    ),
    "a user with a line's end": (
        _entry("application", "x") + 'user = "al\\nice"',
        "token 1 (application-1): user should be a text of 1 to 256 printable characters",
    ),
    "thoughts in words": (
        _entry("application", "x") + 'thoughts = "yes"',
        "token 1 (application-1): thoughts should be true or false",
    ),
    "thoughts by number": (
        _entry("application", "x") + "thoughts = 1",
        "token 1 (application-1): thoughts should be true or false",
    ),
    "a hash of no text": (
        '[[tokens]]\nname = "n"\nrole = "admin"\nsha256 = 5',
        "token 1 (n): sha256 should be 64 hexadecimal digits",
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_a_tokens_file_that_can_not_be_used(tmp_path: Path, case: str) -> None:
    content, words = FILES[case]
    path = tmp_path / "tokens.toml"
    path.write_text(content)
    with pytest.raises(TokensError) as caught:
        load_tokens(path)
    said = str(caught.value)
    assert said.startswith(f"tokens_file: {path}")
    assert words in said
    for secret in (HASH[:-2], "hush"):
        assert secret not in said


def test_it_does_not_start_with_such_a_file(tmp_path: Path) -> None:
    content, words = FILES["an unknown role"]
    path = tmp_path / "tokens.toml"
    path.write_text(content)
    ended = serve_and_fail("--tokens-file", str(path))
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"dispatcher: tokens_file: {path}")
    assert words in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert not ended.stdout


# --- TLS -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with server.pem, server.key, client.pem and client.key, each self-signed."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl to make certificates with")
    folder = tmp_path_factory.mktemp("tls")
    for name in ("server", "client"):
        subprocess.run(
            [
                openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                "-keyout", f"{name}.key", "-out", f"{name}.pem", "-days", "2", "-subj", f"/CN={name}",
                "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
            ],
            cwd=folder,
            check=True,
            capture_output=True,
        )  # fmt: skip
    return folder


async def _greeting(address: str, credentials: grpc.ChannelCredentials | None) -> Status:
    """How a probe of its health goes."""
    async with dialled(address, credentials=credentials) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        return await status_of(stub.Check(health_pb2.HealthCheckRequest(), timeout=15))


@asynchronous
async def _tls_scene(certificates: Path) -> None:
    server = (certificates / "server.pem").read_bytes()
    flags = (
        "--tls-certificate", str(certificates / "server.pem"),
        "--tls-key", str(certificates / "server.key"),
    )  # fmt: skip
    with running_dispatcher(*flags) as dispatcher:
        right, stranger, plain = await asyncio.gather(
            _greeting(dispatcher.address, grpc.ssl_channel_credentials(server)),
            _greeting(dispatcher.address, grpc.ssl_channel_credentials()),
            _greeting(dispatcher.address, None),
        )
        assert right.code is OK
        assert stranger.code is grpc.StatusCode.UNAVAILABLE
        assert plain.code is not OK


def test_tls_lets_in_who_trusts_the_certificate(certificates: Path) -> None:
    _tls_scene(certificates)


def test_the_client_commands_speak_tls_and_say_what_does_not_fit(certificates: Path) -> None:
    certificate, key = str(certificates / "server.pem"), str(certificates / "server.key")

    @asynchronous
    async def scene() -> None:
        with (
            running_dispatcher("--tls-certificate", certificate, "--tls-key", key) as dispatcher,
            running_dispatcher() as plain,
        ):
            encrypted, open_ = dispatcher.address, plain.address
            right, stranger, bare, wrong = await asyncio.gather(
                run_cli("agents", "--tls-ca", certificate, address=encrypted),
                run_cli("agents", "--tls", address=encrypted),
                run_cli("agents", "--timeout-s", "5", address=encrypted),
                run_cli("agents", "--tls", address=open_),
            )
        assert right == (0, "", "no agents: no commander is connected\n")
        assert stranger[0] == 6
        assert "name the authority that signed it with --tls-ca FILE" in stranger[2]
        assert bare[0] == 6
        assert "add --tls if it wants TLS" in bare[2]
        assert wrong[0] == 6
        assert wrong[2].endswith("speaks no TLS: leave out --tls\n")

    scene()


def test_tls_can_ask_for_a_certificate_of_the_client(certificates: Path) -> None:
    def content(name: str) -> bytes:
        return (certificates / name).read_bytes()

    flags = (
        "--tls-certificate", str(certificates / "server.pem"),
        "--tls-key", str(certificates / "server.key"),
        "--tls-client-ca", str(certificates / "client.pem"),
    )  # fmt: skip

    @asynchronous
    async def scene() -> None:
        server = content("server.pem")
        known = grpc.ssl_channel_credentials(server, content("client.key"), content("client.pem"))
        unknown = grpc.ssl_channel_credentials(server, content("server.key"), content("server.pem"))
        with running_dispatcher(*flags) as dispatcher:
            right, without, other = await asyncio.gather(
                _greeting(dispatcher.address, known),
                _greeting(dispatcher.address, grpc.ssl_channel_credentials(server)),
                _greeting(dispatcher.address, unknown),
            )
            assert right.code is OK
            assert without.code is not OK
            assert other.code is not OK

    scene()


@pytest.mark.parametrize("wrong", ["certificate", "key", "another's key", "client's authority"])
def test_certificates_that_can_not_be_used(certificates: Path, tmp_path: Path, wrong: str) -> None:
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    certificate, key = certificates / "server.pem", certificates / "server.key"
    flags = {
        "certificate": ("--tls-certificate", str(garbage), "--tls-key", str(key)),
        "key": ("--tls-certificate", str(certificate), "--tls-key", str(garbage)),
        "another's key": ("--tls-certificate", str(certificate), "--tls-key", str(certificates / "client.key")),
        "client's authority": (
            "--tls-certificate", str(certificate), "--tls-key", str(key), "--tls-client-ca", str(garbage),
        ),
    }[wrong]  # fmt: skip
    ended = serve_and_fail(*flags)
    assert ended.returncode == 2
    assert "dispatcher: tls_" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "taken by another process" not in ended.stderr
