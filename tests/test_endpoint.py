"""The endpoint client and generation through it, against a server that misbehaves."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from email.utils import format_datetime
from pathlib import Path

import pytest
from endpoint_server import Answer, EndpointServer, Request, chat, refusal
from hypothesis import given
from hypothesis import strategies as st

from prefloop.config.sampling import Sampling
from prefloop.errors import ConfigError, DataError, ModelError
from prefloop.generation.endpoint import Endpoint, EndpointClient
from prefloop.generation.pace import Pace
from prefloop.generation.remote import generate_from_endpoint
from prefloop.generation.replies import Failure, Reply, failure_of, read_reply
from prefloop.loop import served
from prefloop.loop.generate_stage import generate_file
from prefloop.progress import set_quiet
from prefloop.records import Completion, Prompt, canonical_json
from prefloop.store.journal import FileJournal
from prefloop.store.tables import read_records

KEY = "sk-secret-0123456789"
PROMPTS = [Prompt.create(({"role": "user", "content": f"question {i}"},), "toy", "train") for i in range(6)]


class Waits:
    """A clock that sleeping moves, at once."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def client(url: str, waits: Waits | None = None, **options: object) -> EndpointClient:
    waits = waits or Waits()
    endpoint = Endpoint(url, "toy-model", **{"key_variable": "TEST_KEY", "timeout": 5.0, **options})
    return EndpointClient(endpoint, sleep=waits.sleep, clock=waits.clock)


def bodies(count: int) -> list[dict[str, object]]:
    return [{"messages": [{"role": "user", "content": f"{i}"}]} for i in range(count)]


def echo(request: Request) -> Answer:
    return chat(f"answer to {request.text}")


# --- Order, concurrency, counting ------------------------------------------------------------------


def test_answers_come_in_the_order_asked_whatever_finishes_first() -> None:
    with EndpointServer(lambda r: chat(r.text, delay=0.05 if r.text in "024" else 0.0)) as server:
        replies = client(server.url, concurrency=4).complete(bodies(12))
    assert [reply.text for reply in replies] == [str(i) for i in range(12)]


def test_no_more_at_once_than_allowed() -> None:
    with EndpointServer(lambda r: chat("x", delay=0.1)) as server:
        client(server.url, concurrency=5).complete(bodies(15))
    assert server.most_at_once == 5
    assert len(server.requests) == 15


def test_equal_requests_are_sent_once() -> None:
    with EndpointServer(echo) as server:
        replies = client(server.url).complete([*bodies(2), *bodies(2)])
    assert [reply.text for reply in replies] == ["answer to 0", "answer to 1"] * 2
    assert len(server.requests) == 2


def test_tokens_and_cost_are_counted() -> None:
    with EndpointServer(lambda r: chat("x", tokens=(1_000, 200))) as server:
        asked = client(server.url, price_in=2.0, price_out=10.0)
        asked.complete(bodies(3))
    assert (asked.usage.requests, asked.usage.failed) == (3, 0)
    assert (asked.usage.prompt_tokens, asked.usage.completion_tokens) == (3_000, 600)
    assert asked.cost == pytest.approx(3_000 * 2e-6 + 600 * 10e-6)


def test_works_inside_a_running_event_loop() -> None:
    """As in a notebook."""

    async def cell(url: str) -> list[Reply]:
        return client(url).complete(bodies(2))

    with EndpointServer(echo) as server:
        assert [r.text for r in asyncio.run(cell(server.url))] == ["answer to 0", "answer to 1"]


def test_requests_per_minute_space_the_starts() -> None:
    waits = Waits()
    with EndpointServer(echo) as server:
        client(server.url, waits, requests_per_minute=30, concurrency=1).complete(bodies(4))
    assert waits.slept == [pytest.approx(2.0)] * 3  # the first starts at once


# --- Failures that pass ----------------------------------------------------------------------------


def failing(times: int, answer: Callable[[], Answer]) -> Callable[[Request], Answer]:
    return lambda request: answer() if request.attempt < times else echo(request)


@pytest.mark.parametrize(
    "trouble",
    [
        *(refusal(status, "busy") for status in (429, 500, 502, 503, 504)),
        Answer(body=chat("whole").body, cut=20),
        Answer(body=b'{"choices": [{"mess'),
        Answer(body=b"\x00\xff rubbish"),
        Answer(body=b"[" * 100_000),
        Answer(body=b'{"choices": []}'),
        Answer(body=b'{"choices": [{"message": {"content": 7}}]}'),
        Answer(body=b'{"choices": "no"}'),
        Answer(body=b"null"),
        Answer(body=b""),
    ],
    ids=[
        *("429", "500", "502", "503", "504", "cut body", "half an object", "bytes", "deep", "no choice", "number"),
        *("choices of text", "null", "empty"),
    ],
)
def test_trouble_that_passes_is_tried_again_with_growing_waits(trouble: Answer) -> None:
    waits = Waits()
    with EndpointServer(failing(3, lambda: trouble)) as server:
        (reply,) = client(server.url, waits).complete(bodies(1))
    assert reply.text == "answer to 0"
    assert len(server.requests) == 4
    assert len(waits.slept) == 3
    for slept, longest in zip(waits.slept, (1, 2, 4), strict=True):
        assert longest / 2 <= slept <= longest


def test_retry_after_is_obeyed_by_all() -> None:
    """One request is told to wait 7 s; what comes after it starts no sooner."""
    waits = Waits()
    starts = []

    def script(request: Request) -> Answer:
        starts.append((request.text, request.attempt, waits.now))
        return (
            refusal(429, "slow down", retry_after="7") if (request.text, request.attempt) == ("0", 0) else echo(request)
        )

    with EndpointServer(script) as server:
        client(server.url, waits, concurrency=1).complete(bodies(3))
    assert starts == [("0", 0, 0.0), ("0", 1, 7.0), ("1", 0, 7.0), ("2", 0, 7.0)]


def test_after_a_hold_the_rate_still_holds() -> None:
    """Four workers at one start per second; the first is told to wait 30 s while the others wait for 1, 2 and 3 s."""
    asleep: list[tuple[float, asyncio.Event]] = []
    starts: list[float] = []
    now = 0.0

    async def sleep(seconds: float) -> None:
        asleep.append((now + seconds, asyncio.Event()))
        await asleep[-1][1].wait()

    pace = Pace(1.0, sleep, lambda: now)

    async def worker() -> None:
        for _ in range(2):
            await pace.turn()
            starts.append(now)
            if now == 0:
                pace.hold(30.0)

    async def all_workers() -> None:
        nonlocal now
        tasks = [asyncio.create_task(worker()) for _ in range(4)]
        while not all(task.done() for task in tasks):
            for _ in range(10):
                await asyncio.sleep(0)
            if asleep:
                asleep.sort(key=lambda item: item[0])
                now, event = asleep.pop(0)
                event.set()

    asyncio.run(all_workers())
    assert starts == [0.0, *(30.0 + i for i in range(7))]


def test_a_server_that_asks_for_an_hour_has_failed() -> None:
    with EndpointServer(
        lambda r: refusal(429, "come back", retry_after="3600") if r.text == "0" else echo(r)
    ) as server:
        replies = client(server.url).complete(bodies(2))
    assert "come back" in replies[0].error
    assert replies[1].text == "answer to 1"
    assert len(server.requests) == 2


def test_retry_after_as_a_date() -> None:
    from datetime import UTC, datetime, timedelta

    date = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    wait = failure_of(503, {"retry-after": date}, b"", "").wait
    assert wait == pytest.approx(90, abs=5)
    for odd in ("soon", "nan", ""):
        assert failure_of(503, {"retry-after": odd}, b"", "").wait is None


def test_a_hanging_request_times_out_and_the_others_do_not_suffer() -> None:
    with EndpointServer(lambda r: chat(r.text, delay=300.0 if r.text == "1" else 0.0)) as server:
        replies = client(server.url, timeout=2.5, retries=1).complete(bodies(3))
    assert [reply.text for reply in replies] == ["0", "", "2"]
    assert replies[1].error == "no answer within 2.5 s"
    assert Counter(request.text for request in server.requests) == {"0": 1, "1": 2, "2": 1}


# --- Failures that stay ----------------------------------------------------------------------------


def test_other_refusals_fail_at_once_with_the_servers_words() -> None:
    def script(request: Request) -> Answer:
        return refusal(400, "the prompt is too long") if request.text == "1" else echo(request)

    with EndpointServer(script) as server:
        asked = client(server.url)
        replies = asked.complete(bodies(3))
    assert [reply.error for reply in replies] == ["", "HTTP 400, the prompt is too long", ""]
    assert len(server.requests) == 3
    assert asked.usage.failed == 1


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (refusal(401, f"no such key: {KEY}"), "is the key in TEST_KEY right"),
        (refusal(404, "model not found"), "model not found"),
        (Answer(404, b"<html>nothing here</html>"), "does the URL end as the server wants it"),
    ],
    ids=["401", "404 model", "404 path"],
)
def test_what_no_request_can_mend_stops_everything(answer: Answer, says: str) -> None:
    with EndpointServer(lambda r: answer) as server, pytest.raises(ModelError) as caught:
        client(server.url, concurrency=2).complete(bodies(500))
    message = str(caught.value)
    assert says in message
    assert server.url in message
    assert "toy-model" in message
    assert "\n" not in message
    assert KEY not in message
    assert len(server.requests) <= 8 + 1  # the other worker may have had one under way


def test_a_server_that_is_not_there_is_named() -> None:
    with EndpointServer(echo) as server:
        url = server.url
    waits = Waits()
    with pytest.raises(ModelError, match=r"ConnectError.*the first 1 request failed so: is the server up"):
        client(url, waits, retries=2).complete(bodies(1))
    assert len(waits.slept) == 2


def test_different_refusals_do_not_stop_the_rest() -> None:
    """Long prompts are refused one by one, each with words of its own; the last is answered."""
    with EndpointServer(lambda r: echo(r) if r.text == "19" else refusal(400, f"{r.text} tokens too many")) as server:
        replies = client(server.url, concurrency=1).complete(bodies(20))
    assert replies[19].text == "answer to 19"
    assert sum(bool(reply.error) for reply in replies) == 19


def test_equal_failures_after_a_success_do_not_stop_the_rest() -> None:
    with EndpointServer(lambda r: echo(r) if r.text == "0" else refusal(400, "no")) as server:
        replies = client(server.url, concurrency=1).complete(bodies(30))
    assert [bool(reply.error) for reply in replies] == [False] + [True] * 29


def test_the_key_is_sent_and_never_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    journal = FileJournal(tmp_path / "journal")
    with (
        caplog.at_level(0),
        EndpointServer(lambda r: echo(r) if r.text == "0" else refusal(400, f"bad {KEY}!")) as server,
    ):
        asked = client(server.url)
        replies = asked.complete(bodies(2), journal=journal)
    assert {request.headers["authorization"] for request in server.requests} == {f"Bearer {KEY}"}
    assert replies[1].error == "HTTP 400, bad ***!"
    assert KEY not in repr(asked) + repr(asked.endpoint) + caplog.text + journal.path.read_text()


def test_without_a_key_none_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEST_KEY")
    with EndpointServer(echo) as server:
        client(server.url).complete(bodies(1))
    assert "authorization" not in server.requests[0].headers


def test_settings_that_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    for url in ("localhost:8000", "ftp://host/v1", "", "http://"):
        with pytest.raises(ConfigError, match="no web address"):
            Endpoint(url, "m")
    with pytest.raises(ConfigError, match="holds a password") as caught:
        Endpoint(f"http://user:{KEY}@host/v1", "m")
    assert KEY not in str(caught.value)
    monkeypatch.setenv("TEST_KEY", f"{KEY}\nX-Other: 1")
    with pytest.raises(ConfigError, match="TEST_KEY") as caught:
        client("http://host/v1")
    assert KEY not in str(caught.value)


def test_the_path_and_a_query_of_the_base_url() -> None:
    with EndpointServer(echo) as server:
        client(f"{server.url}/?version=2").complete(bodies(1))
    assert server.requests[0].path == "/v1/chat/completions?version=2"
    assert Endpoint("http://h/v1?key=1", "m").shown == "http://h/v1"


def test_a_parameter_that_the_server_refuses_is_replaced_once_for_all() -> None:
    def script(request: Request) -> Answer:
        for name in ("seed", "max_tokens"):
            if name in request.body:
                return refusal(400, f"Unsupported parameter: '{name}' is not supported with this model.")
        return echo(request)

    with EndpointServer(script) as server:
        replies = client(server.url, concurrency=1, retries=0).complete(
            [{**body, "seed": 1, "max_tokens": 9} for body in bodies(4)]
        )
    assert [reply.text for reply in replies] == [f"answer to {i}" for i in range(4)]
    assert len(server.requests) == 6
    assert server.requests[-1].body.keys() == {"model", "messages", "max_completion_tokens"}
    assert server.requests[-1].body["max_completion_tokens"] == 9


def test_a_limit_that_is_too_large_is_not_taken_for_one_unknown() -> None:
    words = "'max_tokens' is too large: 9. This model's maximum context length is 8 tokens."
    with EndpointServer(lambda r: refusal(400, words) if r.text == "1" else echo(r)) as server:
        replies = client(server.url).complete([{**body, "max_tokens": 9} for body in bodies(3)])
    assert [bool(reply.error) for reply in replies] == [False, True, False]
    assert len(server.requests) == 3


def test_hostile_words_are_one_bounded_printable_line() -> None:
    failure = failure_of(400, {}, b"\x1b[2J\n" + b"x" * 5_000, "")
    assert failure.words.isprintable()
    assert len(failure.words) < 400


@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.integers() | st.text(),
        lambda x: (
            st.lists(x)
            | st.dictionaries(st.sampled_from(["choices", "message", "content", "usage", "finish_reason"]), x)
        ),
    ).map(lambda v: json.dumps(v).encode())
)
def test_any_bytes_are_an_answer_or_a_failure(content: bytes) -> None:
    found = read_reply(content, "")
    assert isinstance(found, Failure) or canonical_json([found.text, found.finish_reason]).encode()


def test_halves_of_surrogate_pairs_do_not_reach_the_records() -> None:
    found = read_reply(b'{"choices": [{"message": {"content": "a\\ud800b"}, "finish_reason": "stop"}]}', "")
    assert found == Reply("a?b", "stop")


def test_empty_content_is_an_empty_answer() -> None:
    assert read_reply(chat(None).body, "") == Reply("", "stop", 10, 5)
    assert read_reply(b'{"choices": [{"message": {}}], "usage": {"prompt_tokens": "x"}}', "") == Reply()


# --- The journal -----------------------------------------------------------------------------------


def test_a_journal_repeats_nothing_but_failures(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with EndpointServer(lambda r: refusal(400, "no") if r.text in "12" else echo(r)) as server:
        first = client(server.url)
        before = first.complete(bodies(4), journal=FileJournal(path))
        server.script = echo
        server.requests.clear()
        second = client(server.url)
        after = second.complete(bodies(5), journal=FileJournal(path))
    assert sorted(request.text for request in server.requests) == ["1", "2", "4"]
    assert [bool(reply.error) for reply in before] == [False, True, True, False]
    assert [reply.text for reply in after] == [f"answer to {i}" for i in range(5)]
    assert (second.usage.requests, second.usage.kept, second.usage.prompt_tokens) == (5, 2, 30)  # 2 were paid before


def test_another_model_or_setting_is_another_question(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path / "journal")
    with EndpointServer(echo) as server:
        base = client(server.url)
        for asked in (base, EndpointClient(replace(base.endpoint, model="other"))):
            asked.complete(bodies(1), journal=journal)
            asked.complete([{**bodies(1)[0], "temperature": 0.5}], journal=journal)
    assert len(server.requests) == len(journal.entries()) == 4


INTERRUPTED = """
    import sys
    import signal
    from pathlib import Path
    from prefloop.generation.endpoint import Endpoint, EndpointClient
    from prefloop.store.journal import FileJournal

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background ignores it, and so its children
    bodies = [{"messages": [{"role": "user", "content": f"{i}"}]} for i in range(50)]
    try:
        EndpointClient(Endpoint(sys.argv[1], "m", concurrency=4)).complete(bodies, journal=FileJournal(Path(sys.argv[2])))
    except KeyboardInterrupt:
        print("interrupted")
"""


def test_an_interrupt_ends_at_once_and_what_is_finished_is_kept(tmp_path: Path) -> None:
    """Requests 0 and 1 are answered, the others hang for ten minutes; the process ends long before."""
    with EndpointServer(lambda r: chat(r.text, delay=0.0 if r.text in "01" else 600.0)) as server:
        path = tmp_path / "journal"
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(INTERRUPTED), server.url, str(path)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "NO_PROXY": "127.0.0.1"},
        )
        try:
            while len(server.requests) < 6 or not path.exists() or path.read_bytes().count(b"\n") < 2:
                assert process.poll() is None
                time.sleep(0.01)  # another process is waited for: it has no event to wait on
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate(timeout=300)
        finally:
            process.kill()
    assert out == "interrupted\n"
    assert sorted(value["text"] for value in FileJournal(path).entries().values()) == ["0", "1"]


# --- Generation ------------------------------------------------------------------------------------


def test_generation_gives_records_in_order_with_a_seed_for_each_answer() -> None:
    with EndpointServer(lambda r: chat(f"{r.text} {r.body['seed']}")) as server:
        sampling = Sampling(k=3, temperature=0.7, top_p=0.9, top_k=5, max_new_tokens=33, stop=("END",))
        found = generate_from_endpoint(client(server.url), PROMPTS, sampling, seed=4, round_=2)
    assert [(c.prompt_id, c.index) for c in found] == [(p.id, i) for p in PROMPTS for i in range(3)]
    assert len({c.text for c in found}) == len(found)
    assert all(c.token_ids == c.logprobs == () and c.finish_reason == "stop" for c in found)
    assert {c.policy for c in found} == {Endpoint(server.url, "toy-model").id}
    assert {(c.seed, c.round) for c in found} == {(4, 2)}
    body = server.requests[0].body
    assert {k: v for k, v in body.items() if k not in ("seed", "messages")} == {
        "model": "toy-model",
        "max_tokens": 33,
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 5,
        "stop": ["END"],
    }
    assert all(0 <= request.body["seed"] < 2**31 for request in server.requests)


def test_greedy_asks_once_at_temperature_zero_and_messages_pass_unchanged() -> None:
    turns = ("system", "be brief"), ("user", "a"), ("assistant", "b"), ("user", "c {answer}")
    prompt = Prompt.create(tuple({"role": role, "content": text} for role, text in turns), "toy", "train")
    with EndpointServer(echo) as server:
        (found,) = generate_from_endpoint(client(server.url), [prompt], Sampling(greedy=True), seed=1)
    assert found.index == -1
    assert server.requests[0].body["temperature"] == 0
    assert server.requests[0].body["messages"] == list(prompt.messages)


def test_ends_are_mapped_and_what_is_no_answer_is_counted() -> None:
    ends = {
        "question 0": chat("cut", "length"),
        "question 1": chat("", "content_filter"),
        "question 2": chat("x", None),
    }
    ends |= {"question 3": refusal(400, "no"), "question 4": chat("kept STOP more")}
    drops: Counter[str] = Counter()
    with EndpointServer(lambda r: ends.get(r.text) or echo(r)) as server:
        sampling = Sampling(k=1, stop=("STOP",))
        found = generate_from_endpoint(client(server.url), PROMPTS, sampling, seed=1, drops=drops)
    assert [(c.text, c.finish_reason) for c in found] == [
        ("cut", "length"),
        ("kept ", "stop"),
        ("answer to question 5", "stop"),
    ]
    assert drops == {
        "answer ended by content_filter": 1,
        "answer ended by nothing": 1,
        "answer failed: HTTP 400, no": 1,
    }


def test_answers_left_out_are_said_once_however_many_requests_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(served, "ANSWERS", 1)
    set_quiet(False)
    with EndpointServer(lambda r: refusal(400, "no") if r.text in ("question 1", "question 4") else echo(r)) as server:
        some = served.served_answers(client(server.url), PROMPTS, Sampling(k=1), 1, FileJournal(tmp_path / "j"))
        assert [len(answers) for answers in some] == [1, 0, 1, 1, 0, 1]
    said = capsys.readouterr().err
    assert said.count("left out") == 1
    assert "generate: 2 left out, answer failed: HTTP 400, no" in said


def test_a_resumed_generation_is_the_same(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with EndpointServer(echo) as server:
        whole = generate_from_endpoint(client(server.url), PROMPTS, Sampling(k=2), seed=1)
        generate_from_endpoint(client(server.url), PROMPTS[:4], Sampling(k=2), seed=1, journal=FileJournal(journal))
        server.requests.clear()
        resumed = generate_from_endpoint(
            client(server.url), PROMPTS, Sampling(k=2), seed=1, journal=FileJournal(journal)
        )
    assert resumed == whole
    assert len(server.requests) == 4


def test_a_prompt_that_is_there_twice_is_refused() -> None:
    with pytest.raises(DataError, match="is there twice"):
        generate_from_endpoint(client("http://127.0.0.1:1/v1"), PROMPTS[:1] * 2, Sampling(k=1), seed=1)


def test_the_command_generates_from_an_endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """System message, greedy, a file of prompts, asked one at a time: the answers are records like any others."""
    monkeypatch.setattr(served, "ANSWERS", 1)
    (tmp_path / "p.jsonl").write_text('{"prompt": "one"}\n{"prompt": "two"}\n')

    def script(request: Request) -> Answer:
        messages = request.body["messages"]
        return chat(f"{messages[0]['role']} {messages[-1]['content']}")

    with EndpointServer(script) as server:
        summary = generate_file(
            tmp_path / "p.jsonl",
            tmp_path / "c.parquet",
            model="toy",
            endpoint=server.url,
            system="be brief",
            sampling=Sampling(k=1, greedy=True),
        )
    assert (summary["completions"], summary["unit"], summary["mean_length"]) == (2, "words", 2.0)
    texts = [completion.text for completion in read_records(tmp_path / "c.parquet", Completion)]
    assert texts == ["system one", "system two"]
    prompts = {prompt.id for prompt in read_records(tmp_path / "c-prompts.parquet", Prompt)}
    assert {completion.prompt_id for completion in read_records(tmp_path / "c.parquet", Completion)} == prompts
