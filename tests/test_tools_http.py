"""Tools over HTTP by an OpenAPI document: against a real service on loopback, which notes what reaches it."""

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpcore
import pytest
import yaml
from asynchronous import asynchronous, eventually
from certificates import certify, needs_openssl
from http_service import DOCUMENT, Service, http_service
from tool_scene import ask, code_of, message_of

from dispatcher.tables import HttpTable
from dispatcher.tools import ToolLoadError, ToolOutcome, ToolRunner
from dispatcher.tools.http_api import HttpApi
from dispatcher.tools.outbound import Guard
from dispatcher.tools.sources import Sources


@contextlib.asynccontextmanager
async def using(service: Service, guard: Any = Guard, **keys: Any) -> AsyncIterator[ToolRunner]:
    """A runner with the tools of `[http.shop]`, which may reach loopback unless it is told otherwise."""
    told = {"openapi": f"{service.url}/openapi.json", "allow_hosts": ["127.0.0.1"], "start_wait_s": 60}
    runner = ToolRunner([])
    try:
        async with Sources(
            [HttpApi("shop", HttpTable.model_validate({**told, **keys}), runner.replace, guard)]
        ):
            yield runner
    finally:
        await runner.close()


async def answer(runner: ToolRunner, kind: str, tool: str = "answer", **more: Any) -> ToolOutcome:
    return await runner.run(ask(f"shop_{tool}", {"kind": kind}, **more))


# From the document to a call


@asynchronous
async def test_operations_are_offered_with_one_schema_each(caplog: pytest.LogCaptureFixture) -> None:
    async with http_service() as service, using(service) as runner:
        offers = {offer.name: offer for offer in runner.offers()}
        assert list(offers) == [
            f"shop_{name}" for name in ("getCustomer", "placeOrder", "answer", "attempt", "answers_put")
        ]
        assert offers["shop_getCustomer"].description == "One customer"
        schema = json.loads(offers["shop_getCustomer"].parameters_schema_json)
        assert schema["required"] == ["id"]
        assert schema["properties"]["X-Trace"] == {"description": "A trace", "type": "string"}
        order = json.loads(offers["shop_placeOrder"].parameters_schema_json)
        assert order["properties"] == {"body": {"$ref": "#/$defs/Order"}}
        properties = order["$defs"]["Order"]["properties"]
        assert properties["count"] == {"type": "integer", "exclusiveMinimum": 0}
        assert properties["note"]["type"] == ["string", "null"]
        assert properties["example"] == {"type": "string"}
        assert runner.stats()["shop_answer"].source == "http.shop"
    assert (
        "http.shop: operation 'odd': it refers to '#/components/nothing', which is not there" in caplog.text
    )


@asynchronous
async def test_arguments_go_where_the_document_says() -> None:
    async with http_service() as service, using(service, headers={"Authorization": "Bearer x"}) as runner:
        arguments = {"id": "a/../b c?", "fields": ["x", "y z"], "X-Trace": "t-1"}
        outcome = await runner.run(ask("shop_getCustomer", arguments))
        assert code_of(outcome) == "ok"
        got = service.received[-1]
        assert (got.method, got.path) == ("GET", "/v1/customers/a%2F..%2Fb%20c%3F")
        assert got.query == [("fields", "x"), ("fields", "y z")]
        assert (got.headers["x-trace"], got.headers["authorization"]) == ("t-1", "Bearer x")
        assert "idempotency-key" not in got.headers


@asynchronous
async def test_a_body_is_sent_as_json_with_the_calls_key() -> None:
    async with http_service() as service, using(service) as runner:
        order = {"item": "é", "count": 2, "parts": [{"item": "b"}]}
        assert (
            code_of(await runner.run(ask("shop_placeOrder", {"body": order}, idempotency_key="order-7")))
            == "ok"
        )
        got = service.received[-1]
        assert json.loads(got.body) == order
        assert (got.headers["content-type"], got.headers["idempotency-key"]) == (
            "application/json",
            "order-7",
        )


@pytest.mark.parametrize(
    ("tool", "arguments", "words"),
    [
        ("getCustomer", {}, '"id" (a string) is missing'),
        ("getCustomer", {"id": ".."}, "$.id: '..' can't stand in a path"),
        ("getCustomer", {"id": "1", "X-Trace": "a\r\nHost: evil"}, "$.X-Trace: it goes into a header"),
        ("placeOrder", {"body": {"count": 1}}, '"item" (a string) is missing'),
        ("placeOrder", {"body": {"item": "x", "count": 0}}, "more than 0"),
        ("placeOrder", {"body": {"item": "x", "parts": [{"item": 3}]}}, "$.body.parts[0].item"),
    ],
)
def test_what_does_not_fit_is_never_sent(tool: str, arguments: dict[str, object], words: str) -> None:
    @asynchronous
    async def scene() -> None:
        async with http_service() as service, using(service) as runner:
            before = len(service.received)
            outcome = await runner.run(ask(f"shop_{tool}", arguments))
            assert code_of(outcome) == "invalid_arguments"
            assert words in message_of(outcome)
            assert len(service.received) == before

    scene()


# What the service answers


@pytest.mark.parametrize(
    ("kind", "code", "words", "retryable"),
    [
        ("text", "ok", '"é"', False),
        ("nothing", "ok", "null", False),
        ("json", "ok", '{"path":"/v1/answers/json"}', False),
        ("picture", "failed", "image/png, which is neither JSON nor text", False),
        ("liar", "failed", "says that it is JSON, and is not", False),
        ("long", "failed", "over 4,000 bytes", False),
        ("missing", "failed", "answered 404: no such thing", False),
        ("forbidden", "denied", "answered 403", False),
        ("unfit", "invalid_arguments", "answered 422: kind: is odd", False),
        ("busy", "failed", "answered 429", True),
        ("broken", "failed", "answered 500", True),
        ("cut", "failed", "may have done part of its work", True),
    ],
)
def test_answers_become_outcomes(kind: str, code: str, words: str, retryable: bool) -> None:
    @asynchronous
    async def scene() -> None:
        async with http_service() as service, using(service, answer_bytes_max=4_000) as runner:
            # As large as the document must be.
            outcome = await answer(runner, kind)
            assert code_of(outcome) == code
            assert words in (outcome.result_json if outcome.error is None else outcome.error.message)
            if outcome.error is not None:
                assert outcome.error.retryable == retryable
                assert outcome.error.retry_after_s == (7 if kind == "busy" else None)

    scene()


@asynchronous
async def test_an_absurd_time_to_wait_is_none_or_a_day() -> None:
    async with http_service() as service, using(service) as runner:
        for kind, told_s in (("never", None), ("someday", 86_400)):
            outcome = await answer(runner, kind)
            assert "answered 429" in message_of(outcome)
            assert outcome.error is not None
            assert outcome.error.retry_after_s == told_s


@pytest.mark.parametrize(
    "document",
    [
        b'{"openapi": "3.1.0", "paths": {}, "servers": [{"url": "http://["}]}',
        b"openapi: 3.1.0\npaths: {/a: {post: {requestBody: {content: {1: {}}}}}}\nservers: [{url: 'http://['}]",
        b"",
    ],
)
def test_a_document_that_is_odd_is_asked_for_again(document: bytes, caplog: pytest.LogCaptureFixture) -> None:
    @asynchronous
    async def scene() -> None:
        async with http_service() as service:
            good, service.document = service.document, document
            quick = {"restart_backoff_s": 0.02, "start_wait_s": 0}
            async with using(service, **quick) as runner:

                async def asked() -> int:
                    return len(service.received)

                async def offered() -> int:
                    return len(runner.offers())

                await eventually(asked, lambda times: times >= 2)
                service.moves_to = "http://["
                service.document = b"302"
                seen = len(service.received)
                await eventually(asked, lambda times: times >= seen + 2)
                service.document = good
                await eventually(offered)

    scene()
    assert "http.shop.openapi: the server redirects to what is no address of HTTP; next try" in caplog.text
    assert "http.shop.openapi: http.shop" not in caplog.text


@asynchronous
async def test_only_some_charsets_are_known_and_long_answers_are_told_to_be_so() -> None:
    async with http_service() as service, using(service, output_bytes=2_000) as runner:
        assert (await answer(runner, "odd")).result_json == '"fiancee-hta"'
        assert "has 5,000 bytes; at most 2,000" in message_of(await answer(runner, "long"))
        assert code_of(await answer(runner, "wide")) == "too_large"
    async with http_service() as service, using(service) as runner:
        assert json.loads((await answer(runner, "wide")).result_json) == ["x"] * 30_000


@pytest.mark.parametrize(("idempotent", "retryable"), [([], False), (["attempt"], True)])
def test_what_may_have_changed_something_is_retryable_only_where_that_does_no_harm(
    idempotent: list[str], retryable: bool
) -> None:
    @asynchronous
    async def scene() -> None:
        async with http_service() as service, using(service, idempotent=idempotent) as runner:
            for kind in ("broken", "cut"):
                outcome = await answer(runner, kind, "attempt")
                assert outcome.error is not None
                assert outcome.error.retryable == retryable, outcome

    scene()


@pytest.mark.parametrize("name", ["answers.put", "answers_put", "PUT /answers/{kind}"])
def test_an_operation_that_may_be_sent_again_goes_by_any_of_its_names(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    @asynchronous
    async def scene() -> None:
        async with http_service() as service, using(service, idempotent=[name, "nonsense"]) as runner:
            assert "shop_answers_put" in runner.idempotent_tools
            assert "shop_attempt" not in runner.idempotent_tools

    scene()
    assert "http.shop: idempotent has 'nonsense', which is none of the tools that it offers" in caplog.text
    assert f"idempotent has {name!r}" not in caplog.text


@asynchronous
async def test_a_stop_closes_the_connection() -> None:
    async with http_service() as service, using(service) as runner:
        call = asyncio.create_task(answer(runner, "hang"))
        await service.hung.wait()
        call.cancel()
        await service.left.wait()


@asynchronous
async def test_secrets_are_read_anew_for_each_call(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("one")
    headers = {"Authorization": {"file": str(token), "before": "Bearer "}}
    async with http_service() as service, using(service, headers=headers) as runner:
        await answer(runner, "text")
        assert service.received[-1].headers["authorization"] == "Bearer one"
        token.write_text("two")
        await answer(runner, "text")
        assert service.received[-1].headers["authorization"] == "Bearer two"
        token.unlink()
        outcome = await answer(runner, "text")
        assert "token" not in message_of(outcome)
        assert "a secret that it needs is not there" in message_of(outcome)


# What may be reached


PUBLIC = "93.184.215.14"


class Changing:
    """A resolver that says something else each time it is asked."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, int]] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append((host, port))
        return self.answers.pop(0)


class NoNetwork(httpcore.AsyncNetworkBackend):
    """Notes where somebody wants to be connected to, and lets nobody through: tests don't leave the machine."""

    def __init__(self) -> None:
        self.wanted: list[tuple[str, int]] = []

    async def connect_tcp(self, host: str, port: int, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        self.wanted.append((host, port))
        raise httpcore.ConnectError("nobody is let through")


@pytest.mark.parametrize(
    "address",
    [
        *(
            "127.0.0.1",
            "10.1.2.3",
            "169.254.169.254",
            "192.168.0.1",
            "100.100.100.200",
            "168.63.129.16",
            "::1",
        ),
        *("224.0.0.1", "0.0.0.0", "fe80::1", "fd00:ec2::254", "::ffff:10.0.0.1", "64:ff9b::7f00:1"),  # noqa: S104
    ],
)
def test_a_name_that_leads_inside_is_refused_before_anything_is_sent(address: str, tmp_path: Path) -> None:
    document = tmp_path / "shop.json"
    document.write_text(json.dumps(DOCUMENT))

    @asynchronous
    async def scene() -> None:
        async with http_service() as service:
            server = f"https://shop.example:{service.port}"
            keys = {"openapi": str(document), "server": server, "allow_hosts": []}
            # One public address beside it makes it no better.
            network = NoNetwork()
            resolve = Changing([PUBLIC, address])
            async with using(service, lambda listed: Guard(listed, resolve, network), **keys) as runner:
                outcome = await answer(runner, "text")
                assert code_of(outcome) == "denied"
                assert message_of(outcome) == (
                    "shop.example is not a public address; only hosts in allow_hosts may be elsewhere"
                )
                assert network.wanted == []

    scene()


@asynchronous
async def test_a_name_is_resolved_once_and_what_was_judged_is_connected_to(tmp_path: Path) -> None:
    document = tmp_path / "shop.json"
    document.write_text(json.dumps(DOCUMENT))
    # Public when looked at; who asked again to connect would be led inside.
    resolve, network = Changing([PUBLIC], ["127.0.0.1"]), NoNetwork()
    keys = {"openapi": str(document), "server": "https://shop.example:8443", "allow_hosts": []}
    async with using(Service(), lambda listed: Guard(listed, resolve, network), **keys) as runner:
        assert "can't be reached" in message_of(await answer(runner, "text"))
        assert resolve.asked == [("shop.example", 8443)]
        assert network.wanted == [(PUBLIC, 8443)]
        # And the next call is judged anew.
        assert code_of(await answer(runner, "text")) == "denied"
        assert network.wanted == [(PUBLIC, 8443)]


@asynchronous
async def test_a_listed_name_is_connected_to_at_the_address_that_was_resolved(tmp_path: Path) -> None:
    document = tmp_path / "shop.json"
    document.write_text(json.dumps(DOCUMENT))
    async with http_service() as service:
        listed = f"shop.internal:{service.port}"
        resolve = Changing(["127.0.0.1"])
        keys = {"openapi": str(document), "server": f"http://{listed}/v1", "allow_hosts": [listed]}
        async with using(service, lambda listed: Guard(listed, resolve), **keys) as runner:
            assert code_of(await answer(runner, "text")) == "ok"
        assert service.received[-1].headers["host"] == listed


@pytest.mark.parametrize("status", ["301", "302", "303", "307", "308"])
def test_each_redirect_is_a_target_like_the_first(status: str) -> None:
    @asynchronous
    async def scene() -> None:
        async with http_service() as service, http_service() as inside:
            listed = [f"127.0.0.1:{service.port}"]
            async with using(service, allow_hosts=listed, headers={"X-Key": "hunter2"}) as runner:
                for target in (f"{inside.url}/secrets", "file:///etc/passwd", "//127.0.0.1/x", "http://["):
                    service.moves_to = target
                    assert code_of(await answer(runner, status)) == "denied"
                assert inside.received == []
                service.moves_to = "/v1/answers/text"
                assert (await answer(runner, status)).result_json == '"é"'
                assert service.received[-1].headers["x-key"] == "hunter2"
                service.moves_to = f"/v1/answers/{status}"
                assert "more than 5 times" in message_of(await answer(runner, status))

    scene()


@asynchronous
async def test_secrets_stay_with_the_server_they_are_for() -> None:
    async with http_service() as service, http_service() as other:
        service.moves_to = f"{other.url}/v1/answers/text"
        async with using(service, headers={"X-Key": "hunter2"}) as runner:
            assert code_of(await answer(runner, "302")) == "ok"
        assert "x-key" not in other.received[-1].headers


@asynchronous
async def test_what_may_change_something_is_not_sent_elsewhere() -> None:
    async with http_service() as service, using(service) as runner:
        service.moves_to = "/v1/answers/text"
        assert "not followed" in message_of(await answer(runner, "307", "attempt"))
        # "See other" means: look there for the answer.
        assert (await answer(runner, "303", "attempt")).result_json == '"é"'
        assert service.received[-1].method == "GET"


@asynchronous
async def test_a_redirect_that_leaves_https_is_refused_before_its_name_is_looked_up() -> None:
    async with http_service() as service:
        resolve = Changing(["127.0.0.1"], ["127.0.0.1"])
        async with using(service, lambda listed: Guard(listed, resolve)) as runner:
            service.moves_to = "http://shop.example/v1/answers/text"
            outcome = await answer(runner, "302")
            assert (
                message_of(outcome)
                == "http://shop.example is not https; only hosts in allow_hosts may be without"
            )
            assert {host for host, _ in resolve.asked} == {"127.0.0.1"}


@needs_openssl
@asynchronous
async def test_a_certificate_is_for_the_name_although_an_address_is_connected_to(tmp_path: Path) -> None:
    document = tmp_path / "shop.json"
    document.write_text(json.dumps(DOCUMENT))
    certificate, key = certify(tmp_path, "shop")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    async with http_service(tls) as service:
        for host, code in (("localhost", "ok"), ("shop.internal", "failed")):
            resolve = Changing(["127.0.0.1"])
            keys = {
                "openapi": str(document),
                "server": f"https://{host}:{service.port}/v1",
                "allow_hosts": [host],
                "tls_ca": str(certificate),
            }
            async with using(
                service, lambda listed, resolve=resolve: Guard(listed, resolve), **keys
            ) as runner:
                assert code_of(await answer(runner, "text")) == code


# The document


@asynchronous
async def test_a_document_of_yaml_in_a_file_will_do(tmp_path: Path) -> None:
    path = tmp_path / "shop.yaml"
    path.write_text(
        yaml.safe_dump({**DOCUMENT, "x-since": "2026-01-01"}).replace("'2026-01-01'", "2026-01-01")
    )
    async with (
        http_service() as service,
        using(service, openapi=str(path), server=f"{service.url}/v1") as runner,
    ):
        assert code_of(await answer(runner, "text")) == "ok"


@asynchronous
async def test_operations_are_chosen_by_id_or_by_method_and_path(caplog: pytest.LogCaptureFixture) -> None:
    async with http_service() as service:
        chosen = ["placeOrder", "GET /customers/{id}", "nothing"]
        async with using(service, operations=chosen, prefix="") as runner:
            assert [offer.name for offer in runner.offers()] == ["getCustomer", "placeOrder"]
    assert "there is no operation nothing; there are getCustomer, placeOrder" in caplog.text


@asynchronous
async def test_a_document_that_is_not_there_yet_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    async with http_service() as service:
        document, service.document = service.document, b"soon"
        quick = {"start_wait_s": 0, "restart_backoff_s": 0.01, "restart_backoff_max_s": 0.02}
        async with using(service, **quick) as runner:

            async def texts() -> str:
                return caplog.text

            await eventually(texts, lambda text: "http.shop.openapi: it is no OpenAPI document" in text)
            assert runner.offers() == ()
            service.document = document

            async def offers() -> int:
                return len(runner.offers())

            await eventually(offers)


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ("{", "http.shop.openapi: it is neither JSON nor YAML"),
        ("[]", "http.shop.openapi: it is no OpenAPI document: an object is needed"),
        ('{"swagger": "2.0"}', "http.shop.openapi: it is no OpenAPI document of version 3"),
        ('{"openapi": "3.1.0", "paths": {}}', "http.shop.server: the document has '', which is no address"),
        (
            '{"openapi": "3.1.0", "paths": {}, "servers": [{"url": "http://127.0.0.1/"}]}',
            "http.shop.allow_hosts: http://127.0.0.1 is not https; only hosts in allow_hosts may be without",
        ),
    ],
)
def test_a_file_that_can_not_be_used_ends_the_start(tmp_path: Path, document: str, problem: str) -> None:
    path = tmp_path / "shop.json"
    path.write_text(document)

    @asynchronous
    async def scene() -> None:
        async with using(Service(), openapi=str(path), allow_hosts=[]):
            pytest.fail("it began")

    with pytest.raises(ToolLoadError) as caught:
        scene()
    assert str(caught.value).startswith(problem)
