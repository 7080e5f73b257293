"""A model that needs no GPU and no key: rules in place of weights, behind the HTTP interface of hosted ones.

It is sent a conversation and descriptions of tools, and answers with tool calls or with a text, as
`POST /v1/chat/completions` does. The same conversation always gets the same answer, tool call ids included.
"""

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator

ORDER = re.compile(r"\b[A-Z]-\d{4}\b")
CALLS_A_TURN = 2
ROLES = {"system", "user", "assistant", "tool"}


class RefusedError(Exception):
    """An answer that is no completion. `status`: of HTTP; `kind`: the error's type as clients know it."""

    def __init__(self, status: int, kind: str, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.retry_after = retry_after


class Model:
    """Answers, and counts what it was asked. `overloaded_every`: each n-th request is put off with 429; 0: none."""

    def __init__(self, overloaded_every: int = 0, thinking_seconds: float = 0.0) -> None:
        self._overloaded_every = overloaded_every
        self._thinking_seconds = thinking_seconds
        self._lock = threading.Lock()
        self._requests = 0
        self.answered: list[str] = []
        """The digest of each conversation that was answered, in order: twice the same is work done twice."""

    def complete(self, request: object) -> dict[str, object]:
        """Give the completion. RefusedError for a bad request, or when it is told to be overloaded."""
        messages, tools, name = understood(request)
        with self._lock:
            self._requests += 1
            overloaded = self._overloaded_every and self._requests % self._overloaded_every == 0
        if overloaded:
            raise RefusedError(429, "rate_limit_error", "too many requests: try again later", retry_after=1)
        time.sleep(self._thinking_seconds)
        message = reply(messages, tools)
        with self._lock:
            self.answered.append(digest(messages))
        return completion(name, messages, message)


def understood(request: object) -> tuple[list[dict], set[str], str]:
    """Check a request: its messages, the names of its tools, and the model it wants."""
    if not isinstance(request, dict) or not isinstance(request.get("messages"), list) or not request["messages"]:
        raise RefusedError(400, "invalid_request_error", "messages: a list with at least one message is needed")
    if request.get("stream"):
        raise RefusedError(400, "invalid_request_error", "stream: this model answers in one piece")
    open_calls: set[str] = set()
    for number, message in enumerate(request["messages"]):
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            raise RefusedError(400, "invalid_request_error", f"messages[{number}].role: one of {sorted(ROLES)}")
        if message["role"] == "tool":
            open_calls.discard(message.get("tool_call_id", ""))
        elif open_calls:
            break
        open_calls |= {call["id"] for call in message.get("tool_calls") or ()}
    if open_calls:
        raise RefusedError(400, "invalid_request_error", f"messages: no result of the calls {sorted(open_calls)}")
    tools = {tool["function"]["name"] for tool in request.get("tools") or ()}
    return request["messages"], tools, str(request.get("model") or "rules-1")


def reply(messages: list[dict], tools: set[str]) -> dict[str, object]:
    """Decide the next message from the whole conversation."""
    known = results(messages)
    orders = sorted(set(ORDER.findall(" ".join(m["content"] for m in messages if m["role"] == "user"))))
    wanted = [call for call in (next_call(order, known) for order in orders) if call and call[0] in tools]
    if not wanted:
        said = " ".join(sentence(order, known) for order in orders) or "Which order is it about? Name its number."
        return {"role": "assistant", "content": said}
    calls = [
        {"id": call_id(messages, name, order), "type": "function",
         "function": {"name": name, "arguments": json.dumps(arguments)}}
        for name, order, arguments in wanted[:CALLS_A_TURN]
    ]  # fmt: skip
    return {"role": "assistant", "content": None, "tool_calls": calls}


Known = dict[tuple[str, str], dict]
Call = tuple[str, str, dict[str, str]]


def results(messages: list[dict]) -> Known:
    """What the tools have answered, by tool and by the value of its argument."""
    asked = {call["id"]: call["function"] for message in messages for call in message.get("tool_calls") or ()}
    known: Known = {}
    for message in messages:
        if message["role"] == "tool":
            function = asked[message["tool_call_id"]]
            (value,) = json.loads(function["arguments"]).values()
            known[function["name"], value] = json.loads(message["content"])
    return known


def next_call(order: str, known: Known) -> Call | None:
    """Look the order up, then its parcel; refund what is lost."""
    found = known.get(("get_order", order))
    if found is None:
        return "get_order", order, {"order_id": order}
    parcel = found.get("parcel")
    if parcel is None:
        return None
    place = known.get(("track_parcel", parcel))
    if place is None:
        return "track_parcel", order, {"parcel_id": parcel}
    if place.get("state") == "lost" and ("refund_order", order) not in known:
        return "refund_order", order, {"order_id": order}
    return None


def sentence(order: str, known: Known) -> str:
    """Say what has become of the order."""
    found = known.get(("get_order", order), {})
    if "error" in found:
        return f"I know no order {order}."
    refund = known.get(("refund_order", order))
    if refund:
        return f"The parcel of {order} is lost: {refund.get('amount')} were refunded ({refund.get('refund_id')})."
    place = known.get(("track_parcel", found.get("parcel", "")), {})
    return f"{order} is {place.get('state') or found.get('state') or 'unknown to me'}."


def call_id(messages: list[dict], *parts: str) -> str:
    return f"call_{digest([messages, parts])[:20]}"


def digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def completion(name: str, messages: list[dict], message: dict[str, object]) -> dict[str, object]:
    """Wrap a message as hosted models do; a word counts as a token."""
    reason = "tool_calls" if "tool_calls" in message else "stop"
    asked, answered = sum(len(words(m)) for m in messages), len(words(message))
    return {
        "id": f"chatcmpl-{digest(messages)[:20]}",
        "object": "chat.completion",
        "created": 0,
        "model": name,
        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
        "usage": {"prompt_tokens": asked, "completion_tokens": answered, "total_tokens": asked + answered},
    }


def words(message: dict[str, object]) -> list[str]:
    return list(texts(message))


def texts(value: object) -> Iterator[str]:
    """Give all words below a value."""
    if isinstance(value, str):
        yield from value.split()
    elif isinstance(value, dict):
        for member in value.values():
            yield from texts(member)
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)
