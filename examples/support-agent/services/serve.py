"""`python3 serve.py model|shop PORT`: the two services of the example over HTTP. Standard library only."""

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from model import Model, RefusedError
from shop import ConflictError, MissingError, Shop


class Handler(BaseHTTPRequestHandler):
    """JSON in, JSON out; connections are kept alive."""

    protocol_version = "HTTP/1.1"

    def answer(self, status: int, body: object, **headers: str) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in (headers | {"Content-Type": "application/json", "Content-Length": str(len(data))}).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def body(self) -> object:
        """Read the request's JSON; None when it is none."""
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            return json.loads(data)
        except ValueError:
            return None

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def model_handler(model: Model) -> type[Handler]:
    class ModelHandler(Handler):
        def do_POST(self) -> None:
            request = self.body()
            if self.path != "/v1/chat/completions":
                self.refuse(RefusedError(404, "invalid_request_error", f"no such route: {self.path}"))
            elif not self.headers.get("Authorization", "").startswith("Bearer "):
                self.refuse(RefusedError(401, "authentication_error", "Authorization: a bearer key is needed"))
            else:
                try:
                    self.answer(200, model.complete(request))
                except RefusedError as error:
                    self.refuse(error)

        def refuse(self, error: RefusedError) -> None:
            headers = {} if error.retry_after is None else {"Retry_After": str(error.retry_after)}
            told = {"message": str(error), "type": error.kind, "param": None, "code": None}
            self.answer(error.status, {"error": told}, **headers)

        def do_GET(self) -> None:
            """`/answered`: the conversations that were answered, for those who count."""
            self.answer(200, model.answered if self.path == "/answered" else "ok")

    return ModelHandler


def shop_handler(shop: Shop) -> type[Handler]:
    class ShopHandler(Handler):
        def do_GET(self) -> None:
            """`/orders/…`, `/parcels/…`; `/refunds`: what was paid, for those who count."""
            _, kind, *rest = [*self.path.split("/"), ""]
            look = {"orders": shop.order, "parcels": shop.parcel}.get(kind)
            if kind == "refunds":
                self.answer(200, {"requests": shop.requests, "paid": list(shop.refunds.values())})
            elif look is None:
                self.answer(200, "ok")
            else:
                self.attempt(lambda: look(rest[0]))

        def do_POST(self) -> None:
            """`/refunds` with `{"order_id": …}` and an `Idempotency-Key`."""
            request, key = self.body(), self.headers.get("Idempotency-Key")
            if self.path != "/refunds" or not key or not isinstance(request, dict) or "order_id" not in request:
                self.answer(400, {"error": "POST /refunds takes an order_id, and an Idempotency-Key as a header"})
            else:
                self.attempt(lambda: shop.refund(str(request["order_id"]), key))

        def attempt(self, do) -> None:  # noqa: ANN001
            try:
                self.answer(200, do())
            except MissingError as error:
                self.answer(404, {"error": str(error)})
            except ConflictError as error:
                self.answer(409, {"error": str(error)})

    return ShopHandler


def main() -> None:
    which, port = sys.argv[1], int(sys.argv[2])
    if which == "model":
        overloaded, thinking = os.environ.get("OVERLOADED_EVERY", "0"), os.environ.get("THINKING_SECONDS", "0")
        handler = model_handler(Model(int(overloaded), float(thinking)))
    else:
        handler = shop_handler(Shop())
    server = ThreadingHTTPServer(("0.0.0.0", port), handler)
    server.daemon_threads = True
    server.serve_forever()


if __name__ == "__main__":
    main()
