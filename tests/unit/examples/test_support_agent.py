"""The agent's own promises, on its own model and shop over HTTP: no turn is paid twice, no order is refunded twice."""

import json
import urllib.error
from collections.abc import Iterator

import pytest

from milepost.testing import AsyncTaskRun, after, before, unacknowledged
from tests.examples import ANSWER, QUESTION, Services, module, services

agent = module("support-agent/task.py")
model = module("support-agent/services/serve.py").Model


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    with services(overloaded_every=3) as running:
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        yield running


async def test_it_answers_and_waits_out_an_overloaded_model(shop: Services):
    run = AsyncTaskRun(agent.main, {"question": QUESTION})
    result = await run.finish()
    assert result["text"] == ANSWER
    assert sorted(result["tools"]) == ["get_order"] * 5 + ["refund_order"] * 2 + ["track_parcel"] * 3
    asked = sum(count for key, count in run.executions.items() if key.startswith("ask"))
    assert asked == result["turns"] + 3  # each third request was put off
    assert [refund["order_id"] for refund in shop.paid()] == ["A-1002", "A-1004"]


async def test_wherever_it_dies_no_turn_is_answered_twice_and_nothing_is_refunded_twice(shop: Services):
    undisturbed = AsyncTaskRun(agent.main, {"question": QUESTION})
    await undisturbed.finish()
    for place in range(1, len(undisturbed.steps) + 1):
        shop.model.answered.clear()
        shop.shop.refunds.clear()
        run = AsyncTaskRun(agent.main, {"question": QUESTION})
        await run.attempt(crash=after(place))
        assert (await run.finish())["text"] == ANSWER
        assert len(shop.model.answered) == len(set(shop.model.answered)), place
        assert len(shop.paid()) == 2


@pytest.mark.parametrize("point", [before, unacknowledged])
async def test_a_refund_whose_record_was_lost_is_paid_once(shop: Services, point):
    undisturbed = AsyncTaskRun(agent.main, {"question": QUESTION})
    await undisturbed.finish()
    shop.shop.refunds.clear()
    refund = next(key for key, value in undisturbed.steps.items() if "refund_id" in str(value))
    run = AsyncTaskRun(agent.main, {"question": QUESTION})
    asked = shop.shop.requests
    await run.attempt(crash=point(refund))
    assert (await run.finish())["text"] == ANSWER
    assert shop.shop.requests - asked == (3 if point is before else 2)
    assert [one["order_id"] for one in shop.paid()] == ["A-1002", "A-1004"]


def test_what_the_model_did_wrong_is_told_to_it(shop: Services):
    assert shop
    wanted = [
        ("no_such_tool", "{}"),
        ("get_order", "not json"),
        ("get_order", '{"order": "A-1001"}'),
        ("get_order", "[]"),
    ]
    for name, arguments in wanted:
        told = agent.use({"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}})
        assert "there is no such call" in json.loads(told["content"])["error"], name


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"messages": []}, "at least one message"),
        ({"messages": [{"role": "king", "content": ""}]}, r"messages\[0\]\.role"),
        ({"messages": [{"role": "user", "content": "A-1001"}], "stream": True}, "stream"),
        (
            {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"id": "c1"}]}, {"role": "user"}]},
            "no result of the calls",
        ),
    ],
)
def test_a_bad_request_is_refused_as_hosted_models_do(shop: Services, body, words):
    url = shop.environment["MODEL_URL"] + "/chat/completions"
    with pytest.raises(urllib.error.HTTPError) as refused:
        agent.call("POST", url, body, {"Authorization": "Bearer none"})
    assert refused.value.code == 400
    with refused.value as answer, pytest.raises(AssertionError, match=words):
        raise AssertionError(json.load(answer)["error"]["message"])


def test_a_request_without_a_key_is_refused(shop: Services):
    with pytest.raises(urllib.error.HTTPError) as refused:
        agent.call("POST", shop.environment["MODEL_URL"] + "/chat/completions", {}, {})
    assert refused.value.code == 401
    refused.value.close()


def test_the_same_conversation_gets_the_same_answer():
    request = {"messages": [{"role": "user", "content": "A-1001?"}], "tools": agent.described()}
    assert model().complete(request) == model().complete(request)
