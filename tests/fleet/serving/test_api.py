"""The API over a server in this process, asked by the real OpenAI client and by plain HTTP."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import httpx2
import openai
import pytest
import torch
from fake_shop import Shop

from bem import BEMModel, load_base
from fleet.registry.reader import RegistryReader
from fleet.registry.records import MODEL
from fleet.serving.server import Server
from fleet.serving.traffic import BASE


@pytest.fixture(scope="module")
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0)


def offline(shop: Shop, name: str) -> BEMModel:
    with RegistryReader(shop.registry) as reader:
        folder = reader.folder(reader.resolve(shop.ids[name]))
    return BEMModel.from_pretrained(folder / MODEL, base=load_base(str(shop.base.folder)))


def test_list(client: openai.OpenAI, shop: Shop) -> None:
    listed = {model.id: model for model in client.models.list()}
    assert {BASE, "tiny:P", "tiny:P@champion", shop.ids["plain"], "scratch:E"} <= listed.keys()
    assert listed["tiny:P"].model_extra["bem"]["id"] == shop.ids["plain"]
    assert listed["tiny:H"].model_extra["bem"]["context_hints"] == ["formal"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_complete_equals_offline_generation(
    client: openai.OpenAI, shop: Shop, stream: bool, temperature: float
) -> None:
    asked: dict[str, Any] = {
        "model": "tiny:H",
        "prompt": "tell me",
        "max_tokens": 12,
        "temperature": temperature,
        "seed": 7,
        "extra_body": {
            "context_hints": ["formal"],
            "behavioral_mode": "careful",
            "adaptation_strength": 0.7,
        },
    }
    if stream:
        chunks = list(
            client.completions.create(**asked, stream=True, stream_options={"include_usage": True})
        )
        text = "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)
        assert chunks[-2].choices[0].finish_reason in ("stop", "length")
        usage, model = chunks[-1].usage, chunks[0].model
    else:
        made = client.completions.create(**asked)
        text, usage, model = made.choices[0].text, made.usage, made.model
    assert model == shop.ids["hinted"]
    assert usage is not None
    assert usage.completion_tokens <= 12
    with offline(shop, "hinted") as whole:
        kwargs: dict[str, Any] = {}
        if temperature:
            kwargs = {"do_sample": True, "temperature": temperature, "top_k": 0}
            kwargs["generator"] = torch.Generator().manual_seed(7)
        expected = whole.generate(
            "tell me",
            context_hints=["formal"],
            behavioral_mode="careful",
            adaptation_strength=0.7,
            max_new_tokens=12,
            **kwargs,
        )
    assert text == expected


def test_strength_zero_equals_the_base(client: openai.OpenAI) -> None:
    def logprobs(model: str, strength: float) -> Any:
        made = client.completions.create(
            model=model,
            prompt="same for both",
            max_tokens=6,
            logprobs=5,
            extra_body={"adaptation_strength": strength},
        )
        return made.choices[0].logprobs.token_logprobs

    base = logprobs(BASE, 1.0)
    assert logprobs("tiny:P", 0.0) == base
    assert logprobs("tiny:P", 1.0) != base


def test_chat(client: openai.OpenAI, shop: Shop) -> None:
    made = client.chat.completions.create(
        model="tiny:P@champion",
        messages=[{"role": "system", "content": "be"}, {"role": "user", "content": "brief"}],
        max_completion_tokens=5,
        logprobs=True,
        top_logprobs=2,
        n=2,
    )
    assert len(made.choices) == 2
    assert made.choices[0].message.content == made.choices[1].message.content  # greedy
    assert len(made.choices[0].logprobs.content[0].top_logprobs) == 2
    with offline(shop, "plain") as whole:
        assert made.choices[0].message.content == whole.generate("be\nbrief\n", max_new_tokens=5)
    chunks = list(
        client.chat.completions.create(
            model="tiny:P",
            messages=[{"role": "user", "content": [{"type": "text", "text": "be\nbrief"}]}],
            max_tokens=5,
            stream=True,
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == made.choices[0].message.content


def test_stop_and_several_prompts(client: openai.OpenAI) -> None:
    whole = client.completions.create(model=BASE, prompt=["ab", "cd"], max_tokens=20)
    assert [choice.index for choice in whole.choices] == [0, 1]
    text = whole.choices[1].text
    made = client.completions.create(model=BASE, prompt="cd", max_tokens=20, stop=[text[4:6]])
    assert made.choices[0].text == text[: text.index(text[4:6])]
    assert made.choices[0].finish_reason == "stop"


def test_safety_lies_over_any_model(client: openai.OpenAI, shop: Shop) -> None:
    def asked(model: str, **extra: Any) -> Any:
        made = client.completions.create(
            model=model, prompt="do it now", max_tokens=8, logprobs=1, extra_body=extra
        )
        return made.choices[0].logprobs.token_logprobs, made.model_extra["bem"]

    plain, said = asked("tiny:P")
    assert "safety" not in said
    assert asked("tiny:P", safety=0.0)[0] == plain
    curve = [asked("tiny:P", safety=knob)[0] for knob in (0.5, 1.0)]
    assert plain != curve[0] != curve[1]
    own, said = asked("tiny:C")
    assert said["safety"]["knob"] == 0.5
    assert said["safety"]["overlay"] == shop.ids["overlay"]
    assert 0 < said["safety"]["strength"][0] < 0.5
    assert asked("tiny:C", safety=0.5)[0] == own
    with offline(shop, "overlay") as whole:
        expected = whole.generate("do it now", max_new_tokens=8)
    made = client.completions.create(
        model="tiny:C", prompt="do it now", max_tokens=8, extra_body={"safety": 0.0}
    )
    assert made.choices[0].text == expected


def test_safety_lies_over_a_planner_s_skills(client: openai.OpenAI, shop: Shop) -> None:
    def asked(**extra: Any) -> Any:
        made = client.completions.create(
            model="tiny:A", prompt="find age sefar: sefar job nurse", extra_body=extra
        )
        return made.choices[0].text, made.model_extra["bem"]

    plain, said = asked()
    assert "safety" not in said
    assert asked(safety=0.0)[0] == plain
    text, said = asked(safety=1.0)
    assert text != plain
    assert said["safety"]["overlay"] == shop.ids["overlay"]
    assert 0 < said["safety"]["strength"][0] < 1
    assert said["planner"][0]["plan"] == asked()[1]["planner"][0]["plan"]
    half = asked(safety=0.5)[1]["safety"]["strength"][0]
    assert half == pytest.approx(said["safety"]["strength"][0] / 2)


def test_a_memory_model_has_no_base_for_safety_to_lie_over(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="lies over no base"):
        client.completions.create(model="scratch:E", prompt=[1], extra_body={"safety": 0.5})


def test_routing_is_the_model_s_own_analysis(client: openai.OpenAI, shop: Shop) -> None:
    made = client.completions.create(
        model="tiny:H",
        prompt="what routes",
        max_tokens=2,
        extra_body={"routing": True, "context_hints": "formal"},
    )
    told = made.model_extra["bem"]["routing"][0]
    with offline(shop, "hinted") as whole:
        expected = whole.analyze_routing("what routes", context_hints="formal").as_dict()
    layer, wanted = told["layers"][0], expected["layers"][0]
    assert layer["load"] == pytest.approx(wanted["load"], abs=1e-5)
    site = next(iter(wanted["codes"]))
    assert layer["codes"][site][0] == pytest.approx(wanted["codes"][site][0], abs=1e-5)


def test_a_planner_plans_and_retrieves(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "tiny:A", "max_tokens": 9}
    made = client.completions.create(**asked, prompt="find age sefar: sefar job nurse")
    told = made.model_extra["bem"]["planner"][0]
    assert set(told["plan"]) <= set("REF")
    again = client.chat.completions.create(
        **asked, messages=[{"role": "user", "content": "find age sefar: sefar job nurse"}]
    )
    assert again.choices[0].message.content == made.choices[0].text
    with pytest.raises(openai.BadRequestError, match="reads 'what field"):
        client.completions.create(**asked, prompt="hello")


def test_a_session_goes_on_and_stays_small(client: openai.OpenAI) -> None:
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 64, (700,), generator=draw).tolist()

    def asked(prompt: list[int], session: str | None) -> Any:
        extra = {} if session is None else {"session": session}
        made = client.completions.create(
            model="scratch:E", prompt=prompt, max_tokens=1, logprobs=5, extra_body=extra
        )
        return made.model_extra["bem"], made.choices[0].logprobs

    seen: list[int] = []
    sizes = set()
    for start in range(0, len(ids), 90):
        part = ids[start : start + 90]
        told, logprobs = asked(part, "parts")
        # A fresh stream of everything so far, answers included, says the same.
        straight, straight_logprobs = asked([*seen, *part], None)
        assert told["token_ids"] == straight["token_ids"]
        assert logprobs.token_logprobs == pytest.approx(straight_logprobs.token_logprobs, abs=1e-4)
        seen += [*part, *told["token_ids"]]
        assert told["session"]["tokens"] == len(seen)
        sizes |= {told["session"]["state_bytes"], straight["session"]["state_bytes"]}
    assert len(sizes) == 1
    with pytest.raises(openai.BadRequestError, match="0 to 63"):
        asked([64], None)
    with pytest.raises(openai.BadRequestError, match="token ids of its own streams"):
        client.completions.create(model="scratch:E", prompt="words")


@pytest.mark.parametrize(
    ("body", "status", "needle"),
    [
        ({"model": "nobody", "prompt": "x"}, 404, "is not served. Known: base"),
        ({"model": "../../etc/passwd", "prompt": "x"}, 404, "is not served"),
        ({"model": BASE, "prompt": "x", "temprature": 1}, 400, "Unknown field 'temprature'"),
        ({"model": BASE, "prompt": "x", "max_tokens": False}, 400, "max_tokens"),
        ({"model": BASE, "prompt": "x", "temperature": "1"}, 400, "temperature"),
        ({"model": BASE, "prompt": "x", "top_p": 0}, 400, "top_p"),
        ({"model": BASE, "prompt": "x", "adaptation_strength": 1.5}, 400, "adaptation_strength"),
        ({"model": BASE, "prompt": "x", "safety": -0.1}, 400, "safety"),
        ({"model": BASE, "prompt": "x", "max_tokens": 2000}, 400, "max_tokens is 2000; at most"),
        ({"model": BASE, "prompt": "x", "max_tokens": 600}, 400, "together at most 512"),
        ({"model": BASE, "prompt": "x" * 600}, 400, "601 tokens|600 tokens"),
        ({"model": BASE, "prompt": "x" * 900_000}, 400, "characters"),
        ({"model": BASE, "prompt": [9999]}, 400, "token 9999"),
        ({"model": BASE, "prompt": "x", "n": 9}, 400, "less than or equal to 8"),
        ({"model": BASE, "prompt": ""}, 400, "at least 1 character"),
        ({"model": BASE, "prompt": "x", "context_hints": "formal"}, 400, "hints"),
        ({"model": "tiny:H", "prompt": "x", "context_hints": "rude"}, 400, "Known: formal"),
        ({"model": "tiny:H", "prompt": "x", "behavioral_mode": "rude"}, 400, "Known: careful"),
        ({"model": BASE, "prompt": "x", "session": "s"}, 400, "memory models"),
        ({"model": BASE, "prompt": "x", "session": "../s"}, 400, "session"),
        ({"model": BASE, "prompt": "\ud800"}, 400, "surrogate"),
        ({"model": BASE, "prompt": "x", "adaptation_strength": 0.5}, 400, "adaptation_strength"),
        ({"model": "tiny:A", "prompt": "a b: c", "temperature": 1}, 400, "greedily"),
        ({"model": "tiny:A", "prompt": "a b: c", "routing": True}, 400, "routing"),
        ({"model": "scratch:E", "prompt": [1], "adaptation_strength": 0.5}, 400, "no use for adap"),
    ],
)
def test_errors_have_openai_s_form(
    http: httpx2.Client, body: dict[str, Any], status: int, needle: str
) -> None:
    answer = http.post(
        "/v1/completions",
        content=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert re.search(needle, error["message"]), error


def test_first_token_is_timed_where_it_is_made(client: openai.OpenAI, server: Server) -> None:
    """Also of an answer that is told whole: not at its end."""

    def seconds() -> float:
        page = server.metrics.page(server.engine.load, 0, 0).decode()
        return float(re.findall(r"bem_serving_first_token_seconds_sum (\S+)", page)[0])

    before, began = seconds(), time.monotonic()
    client.completions.create(model=BASE, prompt="x", max_tokens=400)
    assert 0 < seconds() - before < (time.monotonic() - began) / 3


def test_a_planner_s_answer_keeps_to_max_tokens(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "tiny:A", "prompt": "find age sefar: sefar job nurse"}
    whole = client.completions.create(**asked)
    assert whole.usage is not None
    assert whole.usage.completion_tokens > 2
    cut = client.completions.create(**asked, max_tokens=2)
    assert cut.usage is not None
    assert (cut.usage.completion_tokens, cut.choices[0].finish_reason) == (2, "length")
    assert whole.choices[0].text.startswith(cut.choices[0].text)


def test_a_client_that_leaves_frees_its_rows(url: str, server: Server) -> None:
    body = {"model": BASE, "prompt": "x", "max_tokens": 500, "n": 8, "temperature": 1.5}

    def freed() -> bool:
        for _ in range(1000):
            if server.engine.load.running == server.engine.load.waiting == 0:
                return True
            time.sleep(0.02)
        return False

    with httpx2.Client(base_url=url) as client, pytest.raises(httpx2.TimeoutException):
        client.post("/v1/completions", json=body, timeout=0.05)
    assert freed()
    with (
        httpx2.Client(base_url=url) as client,
        client.stream("POST", "/v1/completions", json=body | {"stream": True}) as answer,
    ):
        next(answer.iter_bytes())
    assert freed()
    ends = server.metrics.page(server.engine.load, 0, 0).decode()
    assert 'bem_serving_ends_total{reason="error"} 0.0' in ends


def test_metrics_begin_at_zero_and_count(http: httpx2.Client) -> None:
    page = http.get("/metrics").text
    assert 'bem_serving_requests_total{endpoint="/v1/completions",status="504"} 0.0' in page
    before = page.count("\n")
    http.post("/v1/completions", json={"model": BASE, "prompt": "x", "max_tokens": 1})
    assert http.get("/metrics").text.count("\n") == before
    assert http.get("/healthz").json() == {"ok": True, "problem": ""}
    assert http.get("/readyz").status_code == 200
    assert http.get("/nowhere").json()["error"]["type"] == "invalid_request_error"
    assert http.get("/v1/completions").status_code == 405
    assert http.get("/admin/state").status_code == 404
