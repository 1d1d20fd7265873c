"""Sessions over HTTP: opened, seen, polled, answered, added to and stopped; and what is wrong, named by its field."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest
from asynchronous import asynchronous, eventually, soon
from dispatcher_process import DispatcherProcess, running_dispatcher
from scripted_commander import linked, unique
from southwest.ai.agent.v1 import agent_pb2
from web_viewer import JSON, asking, browsing, opened, sent

DISPATCHER_FLAGS = (
    "--http-address", "127.0.0.1:0",
    "--request-bytes-max", "20000",
    "--messages-waiting-max", "2",
)  # fmt: skip

# What is wrong, the body, the status, the code, the field, and words of the detail.
WRONG: dict[str, tuple[Any, int, str, str, list[str]]] = {
    "no JSON": (b"{", 400, "invalid_request", "", ["no JSON"]),
    "no object": (b"[1]", 400, "invalid_request", "", ["object"]),
    "nothing": (b"", 400, "invalid_request", "", ["one of input and messages"]),
    "both": (
        {"input": "x", "messages": [{"role": "user", "content": "y"}]},
        400,
        "invalid_request",
        "",
        ["one of input and messages"],
    ),
    "no messages": ({"messages": []}, 400, "invalid_request", "messages", ["at least 1"]),
    "an unknown field": ({"input": "x", "buget": 1}, 400, "invalid_request", "buget", ["no such field"]),
    "an unknown role": (
        {"messages": [{"role": "robot", "content": "x"}]},
        400,
        "invalid_request",
        "messages[0].role",
        ["'user'"],
    ),
    "an unknown part": (
        {"messages": [{"role": "user", "content": [{"type": "smell"}]}]},
        400,
        "invalid_request",
        "messages[0].content[0]",
        ["'text'"],
    ),
    "a part that lacks its text": (
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        400,
        "invalid_request",
        "messages[0].content[0].text",
        ["required"],
    ),
    "no base64": (
        {
            "messages": [
                {"role": "user", "content": [{"type": "blob", "mime_type": "a/b", "data_base64": "%"}]}
            ]
        },
        400,
        "invalid_request",
        "messages[0].content[0].data_base64",
        ["base64"],
    ),
    "a negative budget": (
        {"input": "x", "budgets": {"tool_calls": -1}},
        400,
        "invalid_request",
        "budgets.tool_calls",
        ["greater than or equal to 0"],
    ),
    "a budget of no time": (
        {"input": "x", "budgets": {"total_time_s": 0}},
        400,
        "invalid_request",
        "budgets.total_time_s",
        ["greater than"],
    ),
    "an agent that nobody serves": (
        {"agent": "nobody", "input": "x"},
        404,
        "no_such_agent",
        "agent",
        ["nobody"],
    ),
    "too large": ({"input": "x" * 40_001}, 413, "too_large", "", ["40000"]),
}


@pytest.mark.parametrize("case", WRONG)
@asynchronous
async def test_what_is_wrong_with_a_request_is_named(dispatcher: DispatcherProcess, case: str) -> None:
    body, status, code, field, words = WRONG[case]
    async with linked(dispatcher.address, unique("agent")), browsing(dispatcher.url) as client:
        how: dict[str, Any] = (
            {"content": body, "headers": JSON} if isinstance(body, bytes) else {"json": body}
        )
        answer = await client.post("/v1/sessions", **how)
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (answer.status_code, problem["status"], problem["code"]) == (status, status, code), problem
    assert problem.get("field", "") == field, problem
    for word in words:
        assert word in problem["detail"], problem


@asynchronous
async def test_the_state_tells_where_a_session_stands(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, browsing(dispatcher.url) as client:
        session_id = await opened(client, agent, user_id="ann", labels={"a": "b"})
        turn = await link.started()
        await turn.send(progress={"text": "halfway", "percent": 50.0})
        await turn.send(usage={"input_tokens": 3, "output_tokens": 4})
        await turn.ask("q-1", "Red or blue?")

        async def state() -> dict[str, Any]:
            record: dict[str, Any] = (await client.get(f"/v1/sessions/{session_id}")).json()
            return record

        record = await eventually(state, lambda record: bool(record["open_questions"]))
        assert record["state"] == "running"
        assert record["progress"]["text"] == "halfway"
        assert record["usage"]["output_tokens"] == 4
        assert record["open_questions"][0]["text"] == "Red or blue?"
        assert (record["user_id"], record["labels"]) == ("ann", {"a": "b"})
        assert record["links"]["events"] == f"/v1/sessions/{session_id}/events"
        await turn.finish()
        record = await eventually(state, lambda record: record["ended"] is not None)
        assert (record["state"], record["ended"]["name"]) == ("ended", "completed")


@asynchronous
async def test_the_list_has_the_latest_first_page_by_page(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, browsing(dispatcher.url) as client:
        ids = []
        for _ in range(4):
            ids.append(await opened(client, agent))
            await (await link.started()).finish()
        live = await opened(client, agent)
        await link.started()

        async def listed(**params: Any) -> dict[str, Any]:
            answer = await client.get("/v1/sessions", params=params)
            assert answer.status_code == 200, answer.text
            page: dict[str, Any] = answer.json()
            return page

        async def living() -> list[str]:
            return [each["session_id"] for each in (await listed(live="true"))["sessions"]]

        await eventually(living, lambda now: now == [live])
        first = await listed(limit=3)
        assert [each["session_id"] for each in first["sessions"]] == [live, ids[3], ids[2]]
        second = await listed(limit=2, before=first["next_before"])
        assert [each["session_id"] for each in second["sessions"]] == [ids[1], ids[0]]
        for params, field in (
            ({"limit": "0"}, "limit"),
            ({"limit": "1.5"}, "limit"),
            ({"live": "maybe"}, "live"),
        ):
            answer = await client.get("/v1/sessions", params=params)
            assert (answer.status_code, answer.json()["field"]) == (400, field)
        gone = await client.get("/v1/sessions", params={"before": "s-none"})
        assert (gone.status_code, gone.json()["field"]) == (404, "before")


@asynchronous
async def test_polling_gives_each_event_once_and_waits_for_the_next(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, browsing(dispatcher.url) as client:
        session_id = await opened(client, agent)
        turn = await link.started()
        path = f"/v1/sessions/{session_id}/events"

        async def polled(cursor: str, wait: float = 30) -> dict[str, Any]:
            answer = await client.get(path, params={"wait": wait, "cursor": cursor})
            assert answer.status_code == 200, answer.text
            page: dict[str, Any] = answer.json()
            return page

        events: list[dict[str, Any]] = []
        cursor, ended = "", False
        nothing_yet = await polled("", wait=0)
        assert nothing_yet["ended"] is False
        for word in ("one ", "two ", None):
            waiting = asyncio.ensure_future(polled(cursor))
            if word is None:
                await turn.finish()
            else:
                await turn.say(word)
            page = await waiting
            while not any(each["event"] in ("content", "ended") for each in page["events"]):
                events += page["events"]
                page = await polled(page["cursor"])
            events += page["events"]
            cursor, ended = page["cursor"], page["ended"]
        assert ended
        assert [each["event"] for each in events] == ["opened", "started", "content", "content", "ended"]
        assert [each["cursor"].rpartition(":")[2] for each in events] == ["1", "2", "3", "4", "5"]
        assert await polled(cursor) == {"events": [], "cursor": cursor, "ended": True}
        gap = await polled("0000:2")
        assert (gap["events"][0]["event"], gap["events"][0]["fields"]["reason"]) == ("gap", "other_epoch")
        assert len(gap["events"]) == 6
        lost = await client.get("/v1/sessions/s-none/events", params={"wait": 1, "cursor": "0000:2"})
        assert (lost.status_code, lost.json()["gap"]["reason"]) == (404, "other_epoch")
        for params, field in (
            ({"wait": "-1"}, "wait"),
            ({"wait": "x"}, "wait"),
            ({"wait": "1_0"}, "wait"),
            ({"wait": "1e999"}, "wait"),
            ({"cursor": "?"}, "cursor"),
        ):
            answer = await client.get(path, params=params)
            assert (answer.status_code, answer.json()["field"]) == (400, field)


@asynchronous
async def test_questions_are_answered_messages_added_and_sessions_stopped(
    dispatcher: DispatcherProcess,
) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, browsing(dispatcher.url) as client:
        async with asking(client, agent) as stream:
            turn = await link.started()
            path = f"/v1/sessions/{turn.session_id}"
            await turn.ask("q-1")
            await stream.until("question")
            wrong = await client.post(f"{path}/answers/q-1", json={})
            assert (wrong.status_code, "value" in wrong.json()["detail"]) == (400, True)
            unknown = await client.post(f"{path}/answers/q-2", json={"value": 1})
            assert (unknown.status_code, unknown.json()["code"]) == (404, "no_such_question")
            given = await client.post(f"{path}/answers/q-1", json={"value": {"a": [1, None]}})
            assert given.status_code == 200, given.text
            assert (await turn.heard("answer")).answer.value_json == '{"a": [1, null]}'
            keyed = {"text": "And quickly.", "idempotency_key": "m-1"}
            added = await client.post(f"{path}/messages", json=keyed)
            assert added.status_code == 202
            message = (await turn.heard("user_message")).user_message
            assert (message.text, message.message_id) == ("And quickly.", added.json()["message_id"])
            for _ in range(1):
                assert (await client.post(f"{path}/messages", json={"text": "x"})).status_code == 202
            full = await client.post(f"{path}/messages", json={"text": "x"})
            assert (full.status_code, full.json()["code"]) == (429, "too_many_messages")
            stopped = await client.post(f"{path}/stop", json={"reason": "Enough"})
            assert stopped.json()["result"] == "stopped"
            assert (await turn.stopped()).reason == "Enough"
            ended = await stream.until("ended")
            assert ended.fields["stop"]["stop_id"] == stopped.json()["stop_id"]
            again = await client.post(f"{path}/stop")
            assert (again.json()["result"], again.json()["stop_id"]) == (
                "already_ended",
                stopped.json()["stop_id"],
            )
            late = await client.post(f"{path}/messages", json={"text": "x"})
            assert (late.status_code, late.json()["code"]) == (409, "session_ended")
            repeated = await client.post(f"{path}/messages", json=keyed)
            assert (repeated.status_code, repeated.json()["message_id"]) == (202, added.json()["message_id"])
            repeated = await client.post(f"{path}/answers/q-1", json={"value": {"a": [1, None]}})
            assert repeated.status_code == 200, repeated.text
            late = await client.post(f"{path}/answers/q-1", json={"value": 2})
            assert (late.status_code, late.json()["code"]) == (409, "session_ended")
        bodies: dict[str, dict[str, Any]] = {
            "/stop": {},
            "/messages": {"text": "x"},
            "/answers/q": {"value": 1},
        }
        for method, tail in (("GET", ""), *(("POST", tail) for tail in bodies)):
            none = await client.request(method, f"/v1/sessions/s-none{tail}", json=bodies.get(tail))
            assert (none.status_code, none.json()["code"]) == (404, "unknown_session"), (tail, none.text)


@asynchronous
async def test_what_is_sent_twice_counts_once(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with (
        linked(dispatcher.address, agent) as link,
        browsing(dispatcher.url) as client,
        asking(client, agent) as stream,
    ):
        turn = await link.started()
        path = f"/v1/sessions/{turn.session_id}"
        key = {"idempotency-key": "k-1"}
        first = await client.post(f"{path}/messages", json={"text": "And?"}, headers=key)
        again = await client.post(f"{path}/messages", json={"text": "And?", "idempotency_key": "k-1"})
        assert (first.status_code, again.status_code, first.json()) == (202, 202, again.json())
        other = await client.post(f"{path}/messages", json={"text": "Or?"}, headers=key)
        assert (other.status_code, other.json()["code"]) == (409, "key_taken")
        both = {"text": "And?", "idempotency_key": "k-2"}
        twice = await client.post(f"{path}/messages", json=both, headers=key)
        assert (twice.status_code, twice.json()["code"]) == (409, "conflict")
        await turn.ask("q-1")
        await stream.until("question")
        for _ in range(3):
            assert (await client.post(f"{path}/answers/q-1", json={"value": 7})).status_code == 200
        assert (await client.post(f"{path}/answers/q-1", json={"value": 8})).status_code == 404
        assert (await turn.heard("answer")).answer.value_json == "7"
        await turn.finish()
        await stream.rest()
        assert turn.heard_nothing("answer")
        assert (await turn.heard("user_message")).user_message.text == "And?"
        assert turn.heard_nothing("user_message")
        assert [stream.kinds.count(kind) for kind in ("user_message", "answer")] == [1, 1]


@asynchronous
async def test_what_is_sent_again_to_another_life_counts_once_too(tmp_path: Path) -> None:
    agent = unique("agent")
    flags = ("--http-address", "127.0.0.1:0", "--journal", f"sqlite:{tmp_path / 'journal'}")
    message = {"text": "And?", "idempotency_key": "k-1"}
    with running_dispatcher(*flags) as dispatcher:
        async with linked(dispatcher.address, agent) as link, browsing(dispatcher.url) as client:
            session_id = await opened(client, agent)
            await link.started()
            first = await client.post(f"/v1/sessions/{session_id}/messages", json=message)
            dispatcher.signal(signal.SIGKILL)
            await asyncio.to_thread(dispatcher.wait)
    with running_dispatcher(*flags) as dispatcher:
        async with browsing(dispatcher.url) as client:
            again = await client.post(f"/v1/sessions/{session_id}/messages", json=message)
            assert (again.status_code, again.json()) == (202, first.json())
            page = await client.get(f"/v1/sessions/{session_id}/events", params={"wait": 0})
            assert [each["event"] for each in page.json()["events"]].count("user_message") == 1


@asynchronous
async def test_what_is_no_path_or_no_method_says_what_there_is(dispatcher: DispatcherProcess) -> None:
    async with browsing(dispatcher.url) as client:
        none = await client.get("/v2/sessions")
        assert (none.status_code, none.json()["code"]) == (404, "not_found")
        wrong = await client.delete("/v1/sessions")
        assert (wrong.status_code, wrong.json()["code"]) == (405, "method_not_allowed")
        assert sorted(wrong.headers["allow"].split(", ")) == ["GET", "HEAD", "POST"]
        broken = await client.post("/v1/sessions/a/answers/b%0Ac", json={"value": 1})
        assert (broken.status_code, broken.json()["code"]) == (404, "not_found")
        form = await client.post("/v1/sessions", data={"input": "x"})
        assert (form.status_code, form.json()["field"]) == (415, "content-type")
        typo = await client.get("/v1/sessions/s/events", params={"curser": "e:1"})
        assert (typo.status_code, typo.json()["field"]) == (400, "curser")
        assert "cursor, include_thoughts, wait" in typo.json()["detail"]


@asynchronous
async def test_a_field_has_the_name_that_the_body_gave_it(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, browsing(dispatcher.url) as client:
        long = {"agent": agent, "input": "x", "affinity_key": "k" * 300}
        wrong = (await soon(client.post("/v1/sessions", json=long))).json()
        assert wrong["field"] == "affinity_key"
        assert wrong["detail"].startswith("affinity_key: ")
        session_id = await opened(client, agent)
        turn = await link.started()
        await turn.send(question=agent_pb2.Question(question_id="q-1", text="?", options=["a", "b"]))
        path = f"/v1/sessions/{session_id}"
        await eventually(lambda: _questions(client, path))
        misfit = (await client.post(f"{path}/answers/q-1", json={"value": "c"})).json()
        assert (misfit["code"], misfit["field"]) == ("invalid_request", "value")
        await turn.finish()


async def _questions(client: httpx.AsyncClient, path: str) -> bool:
    page = (await client.get(f"{path}/events", params={"wait": 0})).json()
    return any(event["event"] == "question" for event in page["events"])


@asynchronous
async def test_a_request_is_as_large_over_http_as_by_any_other_way() -> None:
    flags = ("--http-address", "127.0.0.1:0", "--request-bytes-max", "20000")
    with running_dispatcher(*flags) as dispatcher:
        async with browsing(dispatcher.url) as client:
            large = await client.post("/v1/sessions", json={"agent": "a", "input": "x" * 25_000})
            assert (large.status_code, large.json()["code"]) == (413, "too_large")
            assert "request_bytes_max is 20000" in large.json()["detail"]
            larger = await client.post("/v1/sessions", json={"agent": "a", "input": "x" * 45_000})
            assert (larger.status_code, larger.json()["code"]) == (413, "too_large")
            fits = await client.post("/v1/sessions", json={"agent": "a", "input": "x" * 19_000})
            assert fits.json()["code"] == "no_such_agent"


@asynchronous
async def test_pages_of_others_and_names_of_others_are_refused(dispatcher: DispatcherProcess) -> None:
    async with browsing(dispatcher.url) as client:
        for host in ("evil.example", "evil.example:80", "localhost.evil.example", "", "a b"):
            answer = await client.get("/v1/sessions", headers={"host": host})
            assert answer.status_code in (400, 421), host
        for host in ("localhost", "LOCALHOST:1", "127.0.0.1:80", "[::1]"):
            assert (await client.get("/v1/sessions", headers={"host": host})).status_code == 200, host
        foreign = {"origin": "https://evil.example"}
        answer = await client.post("/v1/sessions", json={"input": "x"}, headers=foreign)
        assert (answer.status_code, answer.json()["code"]) == (403, "origin_not_allowed")
        null = await client.post("/v1/sessions", json={"input": "x"}, headers={"origin": "null"})
        assert null.status_code == 403
        read = await client.get("/v1/sessions", headers=foreign)
        assert "access-control-allow-origin" not in read.headers
        own = {"origin": dispatcher.url}
        answer = await client.post("/v1/sessions", json={"agent": "nobody", "input": "x"}, headers=own)
        assert answer.status_code == 404


@asynchronous
async def test_origins_that_are_listed_may_call_and_read() -> None:
    flags = ("--http-address", "127.0.0.1:0", "--http-origins", "https://app.example")
    with running_dispatcher(*flags) as dispatcher:
        async with browsing(dispatcher.url) as client:
            headers = {"origin": "https://app.example", "access-control-request-method": "POST"}
            # As OpenAI's own client for pages asks.
            wanted = "authorization,content-type,x-stainless-lang,x-stainless-retry-count"
            for origin, status in (("https://app.example", 200), ("https://other.example", 400)):
                asked = await client.options(
                    "/v1/sessions",
                    headers={**headers, "origin": origin, "access-control-request-headers": wanted},
                )
                assert asked.status_code == status
                is_let_in = asked.headers.get("access-control-allow-origin") == origin
                assert is_let_in == (status == 200)
            told = (await client.options("/v1/sessions", headers=headers)).headers
            assert told["access-control-allow-origin"] == "https://app.example"
            answer = await client.post(
                "/v1/sessions", json={"agent": "nobody", "input": "x"}, headers=headers
            )
            assert answer.status_code == 404
            assert answer.headers["access-control-allow-origin"] == "https://app.example"
            read = set(answer.headers["access-control-expose-headers"].split(", "))
            assert {"location", "session-id", "retry-after", "preference-applied"} < read
            assert {
                "x-request-id",
                "x-should-retry",
                "retry-after-ms",
                "x-vercel-ai-ui-message-stream",
            } < read


@asynchronous
async def test_no_answer_may_be_taken_for_another_type(dispatcher: DispatcherProcess) -> None:
    async with browsing(dispatcher.url) as client:
        for method, path in (
            ("GET", "/v1/sessions"),
            ("GET", "/v1/agents"),
            ("GET", "/v1/models"),
            ("GET", "/openapi.json"),
            ("GET", "/healthz"),
            ("GET", "/"),
            ("GET", "/nothing"),
            ("DELETE", "/v1/sessions"),
            ("POST", "/v1/sessions"),
            ("POST", "/v1/responses"),
        ):
            answer = await client.request(method, path, json=None if method == "GET" else {})
            assert answer.headers.get_list("x-content-type-options") == ["nosniff"], path
        strange = await client.get("/v1/sessions", headers={"host": "evil.example"})
        assert (strange.status_code, strange.headers["x-content-type-options"]) == (421, "nosniff")


@asynchronous
async def test_who_says_nothing_or_too_much_holds_no_connection() -> None:
    flags = (
        "--http-body-s",
        "0.5",
        "--http-header-s",
        "0.5",
        "--http-idle-s",
        "1",
        "--request-bytes-max",
        "20000",
    )
    with running_dispatcher("--http-address", "127.0.0.1:0", *flags) as dispatcher:
        await _endure(dispatcher.url)


async def _endure(address: str) -> None:
    url = httpx.URL(address)
    host, port = url.host, url.port
    assert port is not None
    get = b"GET /readyz HTTP/1.1\r\nhost: localhost\r\n"
    assert await sent(host, port, b"") == b""
    assert await sent(host, port, get) == b""
    assert b" 431 " in await sent(host, port, get + b"big: " + b"x" * 20_000)
    assert b" 431 " in await sent(host, port, get + b"big: " + b"x" * 20_000 + b"\r\n\r\n")
    assert b" 400 " in await sent(host, port, b"\0\1\2\r\n\r\n")
    post = b"POST /v1/sessions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    slow = await sent(host, port, post + b"content-length: 100\r\n\r\n{")
    assert b" 408 " in slow
    huge = await sent(host, port, post + b"content-length: 999999999\r\n\r\n{")
    assert b" 413 " in huge
    chunked = (
        post
        + b"transfer-encoding: chunked\r\n\r\n"
        + b"9c40\r\n"
        + b" " * 40_000
        + b"\r\n2\r\n  \r\n0\r\n\r\n"
    )
    assert b" 413 " in await sent(host, port, chunked)
    # A request that is whole is answered, and its connection ends when it is idle.
    ready = await sent(host, port, get + b"\r\n")
    assert ready.startswith(b"HTTP/1.1 200 OK")


@asynchronous
async def test_there_are_as_many_connections_as_may_be() -> None:
    flags = ("--http-address", "127.0.0.1:0", "--http-connections-max", "2")
    with running_dispatcher(*flags) as dispatcher:
        url = httpx.URL(dispatcher.url)
        assert url.port is not None
        pairs = [await asyncio.open_connection(url.host, url.port) for _ in range(2)]
        refused = await sent(url.host, url.port, b"")
        assert b" 503 " in refused
        for _, writer in pairs:
            writer.close()

        async def ready() -> bool:
            async with browsing(dispatcher.url) as client:
                try:
                    return (await client.get("/readyz")).status_code == 200
                except httpx.RemoteProtocolError:
                    return False

        await eventually(ready)


@asynchronous
async def test_readiness_ends_before_the_dispatcher_does() -> None:
    flags = ("--http-address", "127.0.0.1:0", "--drain-deadline-s", "60")
    agent = unique("agent")
    with running_dispatcher(*flags) as dispatcher:
        async with linked(dispatcher.address, agent) as link, browsing(dispatcher.url) as client:
            assert (await client.get("/healthz")).status_code == 200
            assert (await client.get("/readyz")).status_code == 200
            await opened(client, agent)
            turn = await link.started()
            dispatcher.signal(signal.SIGTERM)

            async def ready() -> int:
                return (await client.get("/readyz")).status_code

            await eventually(ready, lambda status: status == 503)
            refused = await client.post("/v1/sessions", json={"agent": agent, "input": "x"})
            assert (refused.status_code, refused.json()["code"]) == (503, "draining")
            await turn.finish()
        assert await asyncio.to_thread(dispatcher.wait) == 0
