import json
import math
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from response_priming import engines
from response_priming.engines import server as server_engine
from response_priming.errors import InputError


class Stub:
    """A completions server: answers a prompt [.., n] with the tokens n, 0 after as many refusals as it is told."""

    def __init__(self):
        self.refusals, self.running, self.most, self.asked, self.lock = 0, 0, 0, [], threading.Lock()
        self.models, self.logprobs, self.ids = [{"id": "m", "max_model_len": 50}], True, True
        self.says = None  # instead of the list of models
        self.other, self.headers = {}, []  # what a method is answered instead: status, headers, content; what was sent

    def complete(self, body):
        with self.lock:
            self.asked.append(body)
            self.running += 1
            self.most = max(self.most, self.running)
            refused, self.refusals = self.refusals > 0, max(0, self.refusals - 1)
        time.sleep(0.02)
        with self.lock:
            self.running -= 1
        return (503, {"error": {"message": "busy"}}) if refused else (200, self.answer(body))

    def answer(self, body):
        tokens = [body["prompt"][-1], 0]
        row = {"token_id:0": -3.0, f"token_id:{tokens[0]}": -0.1, "token_id:9": -2.5}
        top = {"top_logprobs": [row, row], "tokens": [], "token_logprobs": [], "text_offset": []}
        read = [None] + [{"9": {"logprob": -2.5}, "1": {"logprob": -0.1}}] * (len(body["prompt"]) - 1)
        if body["max_tokens"] == 1:
            tokens, top["top_logprobs"] = tokens[:1], [row]
        choice = {"index": 0, "text": "", "finish_reason": "stop", "logprobs": top if self.logprobs else None}
        extra = {"token_ids": tokens, "prompt_logprobs": read} if self.ids else {}
        return {"id": "1", "object": "text_completion", "created": 0, "model": "m", "choices": [choice | extra]}


@pytest.fixture
def stub():
    return Stub()


@pytest.fixture
def url(stub, monkeypatch):
    """Where the stub listens. Back-off takes no time here."""

    class Handler(BaseHTTPRequestHandler):
        def reply(self, status, content):
            stub.headers.append(self.headers)
            data, more = json.dumps(content).encode(), {"Content-Type": "application/json"}
            if self.command in stub.other:
                status, more, data = stub.other[self.command]
            if not status:
                self.connection.close()
                return
            self.send_response(status)
            for name, value in more.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self):
            listing = {"object": "list", "data": [{"object": "model"} | model for model in stub.models]}
            self.reply(200, listing if stub.says is None else stub.says)

        def do_POST(self):
            self.reply(*stub.complete(json.loads(self.rfile.read(int(self.headers["Content-Length"])))))

        def log_message(self, *_):
            pass

    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.001)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.001)
    for name in ("RESPONSE_PRIMING_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()


@pytest.fixture
def engine(url, tiny_model):
    return engines.open_engine("server", engines.Setup(str(tiny_model), server_url=url, batch=3))


PROMPTS = [[5, 6, number] for number in range(1, 9)]


def test_every_prompt_is_answered_under_its_own_index(engine):
    answered = dict(engine.respond(PROMPTS, max_tokens=5, top_k=2))
    assert {index: response.tokens for index, response in answered.items()} == {
        index: [prompt[-1], 0] for index, prompt in enumerate(PROMPTS)
    }
    assert all(response.finished for response in answered.values())


def test_the_signal_is_sorted_cut_and_completed_by_its_tail(engine):
    ((_, response),) = engine.respond(PROMPTS[:1], max_tokens=5, top_k=2)
    assert response.signal.top_ids.tolist() == [[1, 9]] * 2
    assert response.signal.top_logprobs[0].tolist() == pytest.approx([-0.1, -2.5], abs=1e-3)
    assert response.signal.tail_logprobs[0] == pytest.approx(-4.337, abs=0.01)  # log(1 - e^-0.1 - e^-2.5)


def test_the_log_probability_of_a_given_token_is_the_servers_even_outside_the_k(engine):
    ((_, response),) = engine.respond(PROMPTS[:1], max_tokens=5, top_k=2)
    assert response.tokens == [1, 0]
    assert 0 not in response.signal.top_ids
    assert response.token_logprobs.tolist() == pytest.approx([-0.1, -3.0], abs=1e-3)


def test_a_server_that_does_not_say_the_log_probability_of_a_given_token_is_no_error(engine, stub, monkeypatch):
    answer = stub.answer
    monkeypatch.setattr(
        stub, "answer", lambda body: json.loads(json.dumps(answer(body)).replace("token_id:0", "token_id:8"))
    )
    ((_, response),) = engine.respond(PROMPTS[:1], max_tokens=5, top_k=2)
    assert np.isnan(response.token_logprobs).tolist() == [False, True]


def test_never_more_requests_at_once_than_the_batch(engine, stub):
    list(engine.respond(PROMPTS * 2, max_tokens=5))
    assert stub.most == 3


def test_a_busy_server_is_asked_again(engine, stub):
    stub.refusals = 4
    assert len(dict(engine.respond(PROMPTS, max_tokens=5))) == len(PROMPTS)
    assert len(stub.asked) == len(PROMPTS) + 4


def test_a_server_that_stays_busy_is_given_up_in_one_line(engine, stub):
    stub.refusals = 10_000
    with pytest.raises(InputError, match=r"^server_url = 'http://127.*503.*busy") as refused:
        list(engine.respond(PROMPTS[:1], max_tokens=5))
    assert len(stub.asked) == server_engine.RETRIES + 1
    assert len(str(refused.value).splitlines()) == 1


def test_a_repeated_prompt_has_a_seed_of_its_own_which_the_run_decides(engine, stub):
    for seed in (0, 0, 1):
        list(engine.respond(PROMPTS[:1] * 3, max_tokens=5, temperature=0.7, seed=seed))
    seeds = [body["seed"] for body in stub.asked]
    first, again, other = (set(seeds[at : at + 3]) for at in (0, 3, 6))
    assert len(first) == 3
    assert first == again != other


def test_scores_cover_every_position(engine):
    ((index, signal),) = engine.score([[4, 5, 6]], top_k=2)
    assert index == 0
    assert signal.top_ids.tolist() == [[1, 9], [1, 9], [6, 9]]
    assert signal.tail_logprobs.shape == (3,)


def test_a_server_without_log_probabilities_is_refused(engine, stub):
    stub.logprobs = False
    assert dict(engine.respond(PROMPTS[:1], max_tokens=5))[0].signal is None
    with pytest.raises(InputError, match=r"^engine = 'server': the server returns no log-probabilities by token id"):
        list(engine.respond(PROMPTS[:1], max_tokens=5, top_k=2))


def test_a_server_without_token_ids_is_refused(engine, stub):
    stub.ids = False
    with pytest.raises(InputError, match=r"^engine = 'server': the server returns no token_ids"):
        list(engine.respond(PROMPTS[:1], max_tokens=5))


def test_a_server_that_gives_fewer_log_probabilities_is_refused(engine):
    with pytest.raises(InputError, match=r"^top_k = 4: the server returns 3 log-probabilities"):
        list(engine.respond(PROMPTS[:1], max_tokens=5, top_k=4))


def test_a_prompt_longer_than_the_servers_context_is_refused(engine, stub):
    with pytest.raises(InputError, match=r"^prompt 0: its 46 tokens and 5 new ones exceed .* 50 tokens$"):
        engine.respond([[1] * 46], max_tokens=5)
    assert stub.asked == []


WEB, JSON = {"Content-Type": "text/html"}, {"Content-Type": "application/json"}
OTHER = {
    "a web page": ((200, WEB, b"<!DOCTYPE html>\n<p>Welcome</p>"), "text/html: <!DOCTYPE html> <p>Welcome</p>"),
    "nothing in it": ((200, JSON, b""), "application/json:"),
    "half of it": ((200, JSON, b'{"data": [{"id'), 'application/json: {"data": '),
    "no text": ((200, JSON, bytes(range(128, 256))), "application/json: "),
    "JSON of another shape": ((200, JSON, b'{"error": "no such path"}'), 'application/json: {"error"'),
    "a list": ((200, JSON, b"[1, 2]"), "application/json: [1, 2]"),
    "what is none": ((200, JSON, b'{"data": null, "choices": []}'), 'application/json: {"data": null'),
    "other types": ((200, JSON, b'{"data": [{"id": 1}], "choices": ["a"]}'), 'application/json: {"data"'),
    "no such path": ((404, WEB, b"<h1>Not Found</h1>"), "404: <h1>Not Found</h1>"),
    "no key": ((401, JSON, b"{}"), "401 (a key is taken from RESPONSE_PRIMING_API_KEY): {}"),
    "an error of its own": ((500, WEB, b"oops\nat line 1"), "500: oops at line 1"),
    "another place": ((307, {"Location": "http://localhost:9/v1"}, b""), "307:"),
    "no answer": ((0, {}, b""), "APIConnectionError: "),
}


@pytest.mark.parametrize(("reply", "said"), OTHER.values(), ids=OTHER)
@pytest.mark.parametrize(("method", "expected"), [("GET", "a list of models"), ("POST", "a completion")])
def test_any_other_answer_is_refused_in_one_line(url, stub, tiny_model, monkeypatch, reply, said, method, expected):
    monkeypatch.setattr(server_engine, "RETRIES", 1)
    stub.other[method] = reply

    def ask():
        opened = engines.open_engine("server", engines.Setup(str(tiny_model), server_url=url, batch=3))
        list(opened.respond(PROMPTS[:2], max_tokens=5, top_k=2))

    with pytest.raises(InputError) as refused:
        ask()
    assert str(refused.value).startswith(f"server_url = {url!r}: {said}")
    assert str(refused.value).endswith(f"; expected is {expected}, as `vllm serve` gives it")
    assert len(str(refused.value).splitlines()) == 1


def test_a_server_that_scores_a_part_of_a_prompt_is_refused(engine, stub):
    answer = stub.answer({"prompt": [1, 2], "max_tokens": 1})
    stub.other["POST"] = (200, JSON, json.dumps(answer).encode())
    with pytest.raises(InputError, match=r"^engine = 'server': the server scores 2 of 3 tokens"):
        list(engine.score([[4, 5, 6]], top_k=2))


def test_outputs_without_a_token_are_forbidden_and_asked_around(url, stub, padded_model):
    outputs = {257: 0.3, 4: 0.2, 258: 0.1, 263: 0.1, 1: 0.1, 2: 0.05, 3: 0.05, 5: 0.02, 6: 0.01, 7: 0.01}

    def answer(body):
        row = {f"token_id:{token}": math.log(p) for token, p in list(outputs.items())[: body["logprobs"]]}
        read = [{str(token): {"logprob": math.log(p)} for token, p in outputs.items()}] * (len(body["prompt"]) - 1)
        tokens = [4, 0][: body["max_tokens"]]
        choice = {"token_ids": tokens, "prompt_logprobs": [None, *read], "finish_reason": "stop"}
        return {"choices": [choice | {"logprobs": {"top_logprobs": [row] * len(tokens)}}]}

    stub.answer = answer
    engine = engines.open_engine("server", engines.Setup(str(padded_model), server_url=url, batch=3))
    ((_, response),) = engine.respond([[5, 6, 1]], max_tokens=5, top_k=2)
    assert response.signal.top_ids.tolist() == [[4, 1]] * 2
    assert response.signal.top_logprobs[0].tolist() == pytest.approx(np.log([0.4, 0.2]), abs=2e-3)
    assert response.signal.tail_logprobs.tolist() == pytest.approx([math.log(0.4)] * 2, abs=2e-3)
    first, again = stub.asked
    assert first["logit_bias"] == {str(token): -100 for token in range(257, 264)}
    assert (first["logprobs"], again["logprobs"], again["prompt_logprobs"]) == (2, 9, 9)
    assert again["prompt"] == [5, 6, 1, 4]


def test_what_ends_a_response_is_said_to_the_server(engine, stub):
    list(engine.respond(PROMPTS[:1], max_tokens=5))
    assert stub.asked[0]["stop_token_ids"] == engine.describe()["end_tokens"] == [0]
    assert "logit_bias" not in stub.asked[0]


# --- the key ---


@pytest.fixture
def key(monkeypatch):
    monkeypatch.setenv("RESPONSE_PRIMING_API_KEY", "sk-planted")
    return "sk-planted"


def test_a_key_goes_to_the_host_that_is_said(url, stub, tiny_model, key, monkeypatch, capsys):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, "of another service")
    engines.open_engine("server", engines.Setup(str(tiny_model), server_url=url))
    assert stub.headers[0]["Authorization"] == f"Bearer {key}"
    assert "of another service" not in str(stub.headers[0])
    said = capsys.readouterr()
    assert said.err == f"RESPONSE_PRIMING_API_KEY goes to {url.removesuffix('/v1')}\n"
    assert key not in said.out


def test_the_key_of_another_service_goes_nowhere(url, stub, tiny_model, monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted")
    engines.open_engine("server", engines.Setup(str(tiny_model), server_url=url))
    assert "sk-planted" not in str(stub.headers[0])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("host", ["example.com", "10.0.0.7:8000", "localhost.example.com", "[2001:db8::1]:8000"])
def test_a_key_goes_nowhere_in_clear(tiny_model, key, host):
    with pytest.raises(InputError, match=r"^server_url = 'http://.*: must be https://; ") as refused:
        engines.open_engine("server", engines.Setup(str(tiny_model), server_url=f"http://{host}/v1"))
    assert key not in str(refused.value)


def test_a_server_that_repeats_the_key_does_not_make_it_public(url, stub, tiny_model, key):
    stub.other["GET"] = (401, JSON, json.dumps({"error": f"Incorrect key: {key}"}).encode())
    with pytest.raises(InputError, match="Incorrect key: RESPONSE_PRIMING_API_KEY") as refused:
        engines.open_engine("server", engines.Setup(str(tiny_model), server_url=url))
    assert key not in str(refused.value)


@pytest.mark.usefixtures("key")
def test_a_key_is_not_carried_to_another_place(url, stub, tiny_model):
    # The very host, by another name and port: a client that followed would come back here.
    stub.other["GET"] = (307, {"Location": url.replace("127.0.0.1", "localhost")}, b"")
    with pytest.raises(InputError, match=": 307:"):
        engines.open_engine("server", engines.Setup(str(tiny_model), server_url=url))
    assert len(stub.headers) == 1


@pytest.mark.parametrize("url", ["u", "localhost:8000/v1", "ftp://localhost/v1", "http://", "http://[::1/v1"])
def test_what_is_no_address_is_refused(tiny_model, url):
    with pytest.raises(InputError, match=r"^server_url = .*: must be an address as http://localhost:8000/v1$"):
        engines.open_engine("server", engines.Setup(str(tiny_model), server_url=url))


def test_an_address_with_a_password_is_refused_without_it(tiny_model):
    with pytest.raises(InputError, match=r"^server_url \(host example.com\): must hold no user or password") as refused:
        engines.open_engine("server", engines.Setup(str(tiny_model), server_url="https://me:secret@example.com/v1"))
    assert "secret" not in str(refused.value)


def test_an_unreachable_server_is_refused_in_one_line(tiny_model, monkeypatch):
    monkeypatch.setattr(server_engine, "RETRIES", 0)
    with pytest.raises(InputError, match=r"^server_url = 'http://127.0.0.1:9/v1': APIConnectionError") as refused:
        engines.open_engine("server", engines.Setup(str(tiny_model), server_url="http://127.0.0.1:9/v1"))
    assert len(str(refused.value).splitlines()) == 1


def test_a_server_of_other_models_is_refused(url, stub, tiny_model):
    stub.models = [{"id": "m"}, {"id": "n"}]
    with pytest.raises(InputError, match=rf"does not serve {tiny_model}; it serves m, n$"):
        engines.open_engine("server", engines.Setup(str(tiny_model), server_url=url))


def test_a_server_is_looked_for_without_a_model_and_without_patience(url, stub, tiny_model, monkeypatch):
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    server, setup = engines.require("server"), engines.Setup(str(tiny_model), server_url=url)
    server.check(setup)
    stub.models = [{"id": "m"}, {"id": "n"}]
    with pytest.raises(InputError, match=r"it serves m, n$"):
        server.check(setup)
    with pytest.raises(InputError, match=r"^server_url = 'http://127.0.0.1:9/v1': APIConnectionError"):
        server.check(engines.Setup(str(tiny_model), server_url="http://127.0.0.1:9/v1"))


@pytest.mark.parametrize("says", ["<html></html>", [], {"data": None}, {"data": 3}, {"data": ["m"]}])
def test_a_server_that_lists_no_models_is_one_line(url, stub, tiny_model, says):
    stub.says = says
    with pytest.raises(InputError, match=r"^server_url = '.*': application/json: .*; expected is a list of models"):
        engines.open_engine("server", engines.Setup(str(tiny_model), server_url=url))


@pytest.mark.parametrize(
    ("values", "problem"), [({}, "server_url = None: "), ({"server_url": "u", "quantization": "fp8"}, "engine = ")]
)
def test_a_setup_that_no_server_can_follow_is_refused(tiny_model, values, problem):
    with pytest.raises(InputError, match=f"^{problem}"):
        engines.open_engine("server", engines.Setup(str(tiny_model), **values))
