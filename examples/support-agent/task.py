"""A support agent: a model decides, tools act. What was decided and done once is never decided or done again.

Each turn of the model and each tool call is one recorded step, so an attempt that dies goes on in the middle of the
conversation: the history is made of records, no token is paid twice, and no order is refunded twice.
"""

import inspect
import json
import os
import urllib.error
import urllib.request
from typing import NotRequired, TypedDict

from milepost import Context, FatalError, Retry, current, step, task

PATIENT = Retry(max_attempts=6, min_seconds=0.5, max_seconds=20)  # 429 and 5xx; Retry-After is kept to
SYSTEM = "You help customers of a shop. Look orders up, track their parcels, and refund the orders of lost parcels."


class Function(TypedDict):
    """`arguments`: JSON, as the model wrote it."""

    name: str
    arguments: str


class ToolCall(TypedDict):
    id: str
    type: str
    function: Function


class Message(TypedDict):
    role: str
    content: str | None
    tool_calls: NotRequired[list[ToolCall]]
    tool_call_id: NotRequired[str]


class Turn(TypedDict):
    """What is recorded of a turn."""

    message: Message
    tokens: int


class Answer(TypedDict):
    text: str
    turns: int
    tools: list[str]
    tokens: int


def get_order(order_id: str) -> object:
    """Give an order's item, amount, state and parcel."""
    return shop("GET", f"/orders/{order_id}")


def track_parcel(parcel_id: str) -> object:
    """Give a parcel's state, and where it was seen last."""
    return shop("GET", f"/parcels/{parcel_id}")


def refund_order(order_id: str) -> object:
    """Pay an order back to the customer."""
    # The process may die after the refund and before its record: the key tells the shop that it is the same refund
    return shop("POST", "/refunds", {"order_id": order_id}, {"Idempotency-Key": current().idempotency_key})


TOOLS = {tool.__name__: tool for tool in (get_order, track_parcel, refund_order)}


def described() -> list[dict[str, object]]:
    """Describe the tools to the model: all of them take one text."""
    return [
        {
            "type": "function",
            "function": {
                "name": name,
                "description": tool.__doc__,
                "parameters": {
                    "type": "object",
                    "properties": {argument: {"type": "string"} for argument in inspect.signature(tool).parameters},
                    "required": list(inspect.signature(tool).parameters),
                },
            },
        }
        for name, tool in TOOLS.items()
    ]


@step(retry=PATIENT)
def ask(messages: list[Message]) -> Turn:
    """Send the conversation to the model; its next message."""
    body = {"model": os.environ.get("MODEL", "rules-1"), "messages": messages, "tools": described(), "temperature": 0}
    url = os.environ["MODEL_URL"] + "/chat/completions"
    headers = {"Authorization": f"Bearer {os.environ.get('MODEL_KEY', 'none')}"}
    answer = call("POST", url, body, headers)
    said = answer["choices"][0]["message"]
    message: Message = {"role": "assistant", "content": said.get("content")}
    if said.get("tool_calls"):
        message["tool_calls"] = [tool_call(one) for one in said["tool_calls"]]
    return {"message": message, "tokens": answer["usage"]["total_tokens"]}


def tool_call(said: dict) -> ToolCall:
    """Keep of a call what the conversation needs: some models say more."""
    function: Function = {"name": said["function"]["name"], "arguments": said["function"]["arguments"]}
    return {"id": said["id"], "type": "function", "function": function}


@step(key=lambda wanted: f"tool/{wanted['id']}", retry=PATIENT)
def use(wanted: ToolCall) -> Message:
    """Call a tool as the model wants it. What the model did wrong is told to it; what is broken is tried again."""
    function = wanted["function"]
    tool = TOOLS.get(function["name"])
    try:
        arguments = json.loads(function["arguments"])
        inspect.signature(tool).bind(**arguments)
    except (TypeError, ValueError) as error:
        result: object = {"error": f"there is no such call: {error}"}
    else:
        result = tool(**arguments)
    return {"role": "tool", "tool_call_id": wanted["id"], "content": json.dumps(result)}


@task(id="support-agent")
async def main(ctx: Context, question: str, max_turns: int = 12) -> Answer:
    """Let the model and the tools work on a question until there is an answer."""
    messages: list[Message] = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
    used: list[str] = []
    tokens = 0
    for number in range(1, max_turns + 1):
        turn = await ask(messages)
        tokens += turn["tokens"]
        message = turn["message"]
        calls = message.get("tool_calls", [])
        if not calls:
            return {"text": message["content"] or "", "turns": number, "tools": used, "tokens": tokens}
        names = [wanted["function"]["name"] for wanted in calls]
        ctx.progress(number / max_turns, ", ".join(names))
        used += names
        messages += [message, *await ctx.map(use, calls, concurrency=4)]
    raise FatalError(
        f"no answer after {max_turns} turns: raise max_turns, or look at what the model does in the records"
    )


def shop(method: str, path: str, body: object = None, headers: dict[str, str] | None = None) -> object:
    """Ask the shop. What it refuses (4xx) is a result for the model to see."""
    try:
        return call(method, os.environ["SHOP_URL"] + path, body, headers or {})
    except urllib.error.HTTPError as error:
        if error.code in {404, 409}:
            return json.load(error)
        raise


def call(method: str, url: str, body: object, headers: dict[str, str]):  # noqa: ANN201  # JSON
    """Call an HTTP service. urllib.error.HTTPError for what is refused."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers | {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)
