"""The examples' own code, imported from where it lies, and the services of the support agent on this machine."""

import importlib.util
import json
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import tzdata

EXAMPLES = Path(__file__).parents[1] / "examples"
ZONES = Path(tzdata.__file__).parent / "zoneinfo"
"""The files that the ETL loads, of the package that the control plane depends on: no machine is without them."""
QUESTION = "Where are my orders A-1001, A-1002, A-1003 and A-1004? And X-0000?"
ANSWER = (
    "A-1001 is on its way. The parcel of A-1002 is lost: 9.50 were refunded (R-1). A-1003 is being packed. "
    "The parcel of A-1004 is lost: 89.90 were refunded (R-2). I know no order X-0000."
)


def module(path: str) -> ModuleType:
    """A file below examples/ as a module; the same one each time."""
    name = "example_" + path.removesuffix(".py").replace("/", "_").replace("-", "_")
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / path)
        made = importlib.util.module_from_spec(spec)
        sys.modules[name] = made
        spec.loader.exec_module(made)
    return sys.modules[name]


@dataclass
class Services:
    """`model` and `shop` as they are in their processes; `environment`: what the task needs to find them."""

    model: object
    shop: object
    environment: dict[str, str]

    def paid(self) -> list[dict[str, str]]:
        with urllib.request.urlopen(self.environment["SHOP_URL"] + "/refunds", timeout=5) as answer:
            return json.load(answer)["paid"]


@contextmanager
def services(overloaded_every: int = 0, thinking_seconds: float = 0.0) -> Iterator[Services]:
    """Both on ports of the loopback."""
    serve = module("support-agent/services/serve.py")
    model, shop = serve.Model(overloaded_every, thinking_seconds), serve.Shop()
    servers = [
        ThreadingHTTPServer(("127.0.0.1", 0), handler)
        for handler in (serve.model_handler(model), serve.shop_handler(shop))
    ]
    threads = [threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}) for server in servers]
    for server, thread in zip(servers, threads, strict=True):
        server.daemon_threads = True
        thread.start()
    places = [f"http://127.0.0.1:{server.server_address[1]}" for server in servers]
    try:
        yield Services(model, shop, {"MODEL_URL": f"{places[0]}/v1", "SHOP_URL": places[1]})
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()
