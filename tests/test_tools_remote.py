"""Tools of another gRPC service: against a real server with reflection, of which there is no stub here."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from asynchronous import asynchronous, eventually
from certificates import certify, needs_openssl
from google.protobuf import any_pb2, source_context_pb2, timestamp_pb2
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto
from hypothesis import given
from hypothesis import strategies as st
from stock_service import NAME, TYPES, Stock, stock_service
from tool_scene import ask, code_of, message_of

from dispatcher.tables import GrpcTable
from dispatcher.tools import ToolArgumentsError, ToolRunner
from dispatcher.tools.remote import RemoteService
from dispatcher.tools.remote_schema import pool_of, schema_of
from dispatcher.tools.schema import ArgumentsSchema
from dispatcher.tools.sources import Sources, sources_of
from dispatcher.tools.stations import Make

QUICK: dict[str, Any] = {
    "service": NAME,
    "start_wait_s": 60,
    "connect_s": 60,
    "restart_backoff_s": 0.02,
    "restart_backoff_max_s": 0.1,
    "refresh_s": 0.1,
}


@contextlib.asynccontextmanager
async def using(stock: Stock, **keys: Any) -> AsyncIterator[tuple[ToolRunner, Sources]]:
    told = {"address": f"127.0.0.1:{stock.port}", "tls": False, **QUICK, **keys}
    runner = ToolRunner([])
    try:
        async with sources_of({"grpc": {"stock": GrpcTable.model_validate(told)}}, runner) as sources:
            yield runner, sources
    finally:
        await runner.close()


@asynchronous
async def test_methods_are_offered_with_a_schema_of_their_message() -> None:
    async with stock_service() as stock, using(stock) as (runner, _):
        names = [offer.name for offer in runner.offers()]
        assert names == [
            f"stock_{name}"
            for name in ("Put", "Refuse", "Later", "Deny", "Misfit", "Hang", "Who", "Drop", "Garble")
        ]
        schema = json.loads(runner.offers()[0].parameters_schema_json)
        assert schema["properties"]["size"] == {"enum": ["SMALL", "LARGE"]}
        assert schema["properties"]["parts"] == {
            "type": "array",
            "items": {"$ref": "#/$defs/warehouse.v1.Item"},
        }
        assert runner.stats()["stock_Put"].source == "grpc.stock"


@asynchronous
async def test_a_call_goes_there_and_back() -> None:
    item = {
        "item_name": "é",
        "count": "9007199254740993",
        "size": "LARGE",
        "parts": [{"item_name": "b", "shelf": 3}],
        "since": "2026-01-31T12:00:00Z",
    }
    async with stock_service() as stock, using(stock) as (runner, _):
        outcome = await runner.run(ask("stock_Put", item))
        assert json.loads(outcome.result_json) == item


@pytest.mark.parametrize(
    ("tool", "arguments", "code", "words", "retryable"),
    [
        ("Put", {"count": "x"}, "invalid_arguments", "$.count", False),
        ("Put", {"size": "HUGE"}, "invalid_arguments", '"SMALL", "LARGE"', False),
        ("Put", {"parts": [{"name": "x"}]}, "invalid_arguments", "not known", False),
        ("Put", {"shelf": -1}, "invalid_arguments", "at least 0", False),
        ("Put", {"since": "yesterday"}, "invalid_arguments", "since", False),
        ("Put", {"count": 1 << 70}, "invalid_arguments", "count", False),
        ("Put", {"seal": "!!!"}, "invalid_arguments", "$.seal", False),
        ("Put", {"seal": "A"}, "invalid_arguments", "seal", False),
        ("Put", {"more": {"@type": 5}}, "invalid_arguments", "", False),
        ("Put", {"item_name": "x" * 5_000}, "too_large", "over 4,096 bytes, message_bytes_max", False),
        ("Drop", {}, "failed", "Socket closed; it may have done part of its work", False),
        ("Garble", {}, "failed", "no message of its method; it may have done its work", False),
        ("Refuse", {}, "failed", "NOT_FOUND: no such item", False),
        ("Later", {}, "failed", "RESOURCE_EXHAUSTED: come back", True),
        ("Deny", {}, "denied", "PERMISSION_DENIED: not you", False),
        ("Misfit", {}, "invalid_arguments", "item_name is odd", False),
    ],
)
def test_what_goes_wrong_is_told_by_its_kind(
    tool: str, arguments: dict[str, object], code: str, words: str, retryable: bool
) -> None:
    @asynchronous
    async def scene() -> None:
        async with stock_service() as stock, using(stock, message_bytes_max=4096) as (runner, _):
            outcome = await runner.run(ask(f"stock_{tool}", arguments))
            assert code_of(outcome) == code, outcome
            assert words in message_of(outcome)
            assert outcome.error is not None
            assert outcome.error.retryable == retryable

    scene()


@asynchronous
async def test_a_stop_cancels_the_call_on_the_server() -> None:
    async with stock_service() as stock, using(stock) as (runner, _):
        call = asyncio.create_task(runner.run(ask("stock_Hang")))
        await stock.hung.wait()
        call.cancel()
        await stock.left.wait()


@asynchronous
async def test_the_key_the_deadline_and_secrets_go_with_the_call(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("hunter2")
    headers = {"Authorization": {"file": str(token), "before": "Bearer "}}
    async with stock_service() as stock, using(stock, headers=headers, timeout_s=100) as (runner, _):
        outcome = await runner.run(ask("stock_Who", idempotency_key="order-7"))
        assert json.loads(outcome.result_json) == {"item_name": "order-7 Bearer hunter2"}
        # It is written in few digits, and rounded up.
        assert 0 < stock.time_left_s < 110


@asynchronous
async def test_a_call_that_broke_is_retryable_only_where_a_repeat_does_no_harm() -> None:
    async with stock_service() as stock, using(stock, idempotent=["Drop"]) as (runner, _):
        outcome = await runner.run(ask("stock_Drop"))
        assert outcome.error is not None
        assert outcome.error.retryable


@asynchronous
async def test_a_call_that_finds_nobody_has_the_server_looked_for() -> None:
    async with stock_service() as stock:
        context = using(stock, refresh_s=3600)
        runner, sources = await context.__aenter__()
    outcome = await runner.run(ask("stock_Put"))
    assert outcome.error is not None
    assert outcome.error.retryable == ("nothing ran" in outcome.error.message), outcome

    async def is_up() -> bool:
        return sources.states()[0].is_up

    await eventually(is_up, lambda up: not up)
    await context.__aexit__(None, None, None)


@asynchronous
async def test_a_server_need_not_tell_what_comes_with_protobuf() -> None:
    async with stock_service(bare=True) as stock, using(stock) as (runner, _):
        item = {"origin": {"file_name": "x"}, "seal": "eA=="}
        outcome = await runner.run(ask("stock_Put", item))
        assert json.loads(outcome.result_json) == item


@asynchronous
async def test_a_description_that_does_unforeseen_harm_is_asked_for_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failures: list[Exception] = [ValueError("odd"), RecursionError("deep")]
    taken = asyncio.Event()

    async def offer(_: str, make: Make) -> list[str]:
        if failures:
            raise failures.pop()
        make()
        taken.set()
        return []

    async with stock_service() as stock:
        told = {"address": f"127.0.0.1:{stock.port}", "tls": False, **QUICK}
        async with Sources([RemoteService("stock", GrpcTable.model_validate(told), offer)]) as sources:
            await taken.wait()
            assert sources.states()[0].is_up
    assert "grpc.stock is away: RecursionError: deep" in caplog.text
    assert "grpc.stock is away: ValueError: odd" in caplog.text


@asynchronous
async def test_no_proxy_of_the_environment_sees_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    async def note(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.set()
        writer.close()

    reached = asyncio.Event()
    async with await asyncio.start_server(note, "127.0.0.1", 0) as proxy, stock_service() as stock:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}")
        for name in ("grpc_proxy", "https_proxy", "no_proxy", "no_grpc_proxy"):
            monkeypatch.delenv(name, raising=False)
        address = f"localhost:{stock.port}"
        async with using(stock, address=address, headers={"Authorization": "hunter2"}) as (runner, _):
            outcome = await runner.run(ask("stock_Who"))
            assert "hunter2" in outcome.result_json
        assert not reached.is_set()


@asynchronous
async def test_a_server_that_goes_is_away_and_comes_back() -> None:
    async with stock_service() as stock:
        context = using(stock)
        runner, sources = await context.__aenter__()
        assert code_of(await runner.run(ask("stock_Put"))) == "ok"

    async def is_up() -> bool:
        return sources.states()[0].is_up

    await eventually(is_up, lambda up: not up)
    away = await runner.run(ask("stock_Put"))
    assert "grpc.stock is away: UNAVAILABLE" in message_of(away)
    assert away.error is not None
    assert away.error.retryable
    assert runner.stats()["stock_Put"].is_away
    async with stock_service(stock.port):
        await eventually(is_up)
        assert code_of(await runner.run(ask("stock_Put"))) == "ok"
        assert sources.states()[0].losses == 1
        await context.__aexit__(None, None, None)


@asynchronous
async def test_methods_are_chosen_and_streams_are_none(caplog: pytest.LogCaptureFixture) -> None:
    async with (
        stock_service() as stock,
        using(stock, methods=["Put", "Watch", "Take"], prefix="", idempotent=["Put", "Hang"]) as (runner, _),
    ):
        assert [offer.name for offer in runner.offers()] == ["Put"]
    assert "it has no method Take; it has Put, " in caplog.text
    assert "method Watch is a stream" in caplog.text
    assert "grpc.stock: idempotent has 'Hang', which is none of the tools that it offers" in caplog.text
    assert "idempotent has 'Put'" not in caplog.text


@asynchronous
async def test_a_service_that_is_not_there_is_named(caplog: pytest.LogCaptureFixture) -> None:
    async with stock_service() as stock, using(stock, service="warehouse.v1.Stack", start_wait_s=0):

        async def texts() -> str:
            return caplog.text

        await eventually(texts, lambda text: "grpc.stock is away: its reflection says" in text)
    assert "Traceback" not in caplog.text
    assert f"there is no service warehouse.v1.Stack; there are {NAME}" in caplog.text


@needs_openssl
@asynchronous
async def test_it_is_reached_by_tls(tmp_path: Path) -> None:
    certificate, key = certify(tmp_path, "stock")
    tls = grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
    async with stock_service(tls=tls) as stock:
        address = f"localhost:{stock.port}"
        async with using(stock, address=address, tls=True, tls_ca=str(certificate)) as (runner, _):
            assert code_of(await runner.run(ask("stock_Put"))) == "ok"


SCALARS = st.dictionaries(
    st.sampled_from(["item_name", "count", "shelf", "size", "since", "parts"]), st.integers() | st.text()
)


def file(name: str, *needed: str, messages: Sequence[DescriptorProto] = ()) -> bytes:
    told = FileDescriptorProto(
        name=name, package="p", syntax="proto3", dependency=needed, message_type=messages
    )
    return told.SerializeToString()


def test_chains_of_messages_and_files_may_be_long() -> None:
    messages = [DescriptorProto(name=f"M{n}") for n in range(500)]
    for n, message in enumerate(messages[:-1]):
        message.field.add(name="n", number=1, type=11, label=1, type_name=f".p.M{n + 1}")
    files = [file(f"{n}.proto", f"{n + 1}.proto") for n in range(1_500)]
    pool = pool_of([*files, file("1500.proto", messages=messages)], lambda _: None)
    definitions = schema_of(pool.FindMessageTypeByName("p.M0"))["$defs"]
    assert isinstance(definitions, dict)
    assert len(definitions) == 499
    assert all(definitions.values())


@pytest.mark.parametrize("files", [[file("a", "b"), file("b", "a")], [file("a", "a")], [file("a", "b")]])
def test_files_that_do_not_fit_together_are_refused(files: list[bytes]) -> None:
    with pytest.raises(TypeError):
        pool_of(files, lambda _: None)


@given(SCALARS)
def test_what_fits_the_schema_is_json_that_protobuf_may_read(arguments: dict[str, object]) -> None:
    modules = (timestamp_pb2, any_pb2, source_context_pb2)
    standard = {each.DESCRIPTOR.name: each.DESCRIPTOR.serialized_pb for each in modules}
    pool = pool_of([TYPES.SerializeToString()], standard.get)
    schema = ArgumentsSchema("put", schema_of(pool.FindMessageTypeByName("warehouse.v1.Item")))
    try:
        schema.check(arguments)
    except ToolArgumentsError:
        return
    assert not isinstance(arguments.get("shelf", 0), str)
    assert not isinstance(arguments.get("item_name", ""), int)
    assert arguments.get("size", "SMALL") in ("SMALL", "LARGE")
