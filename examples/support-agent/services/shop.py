"""The shop that the agent's tools act on: orders, parcels, and refunds that are paid once for each idempotency key."""

import threading

ORDERS = {
    "A-1001": {"order_id": "A-1001", "item": "fountain pen", "amount": "48.00", "state": "shipped", "parcel": "P-71"},
    "A-1002": {"order_id": "A-1002", "item": "ink, blue", "amount": "9.50", "state": "shipped", "parcel": "P-72"},
    "A-1003": {"order_id": "A-1003", "item": "notebook", "amount": "14.00", "state": "being packed", "parcel": None},
    "A-1004": {"order_id": "A-1004", "item": "desk lamp", "amount": "89.90", "state": "shipped", "parcel": "P-74"},
}
PARCELS = {
    "P-71": {"parcel_id": "P-71", "state": "on its way", "seen": "Lyon"},
    "P-72": {"parcel_id": "P-72", "state": "lost", "seen": "Trieste"},
    "P-74": {"parcel_id": "P-74", "state": "lost", "seen": "Gdynia"},
}


class MissingError(Exception):
    """No such order or parcel."""


class ConflictError(Exception):
    """The order was refunded under another key."""


class Shop:
    """Keeps its refunds in memory. `requests`: how often a refund was asked for, the repeated ones included."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.requests = 0
        self.refunds: dict[str, dict[str, str]] = {}
        """By idempotency key."""

    def order(self, order_id: str) -> dict[str, str | None]:
        if order_id not in ORDERS:
            raise MissingError(f"there is no order {order_id}")
        return ORDERS[order_id]

    def parcel(self, parcel_id: str) -> dict[str, str]:
        if parcel_id not in PARCELS:
            raise MissingError(f"there is no parcel {parcel_id}")
        return PARCELS[parcel_id]

    def refund(self, order_id: str, key: str) -> dict[str, str]:
        """Pay an order back. The same key again gives the first refund, and pays nothing."""
        amount = str(self.order(order_id)["amount"])
        with self._lock:
            self.requests += 1
            if key in self.refunds:
                return self.refunds[key]
            if any(refund["order_id"] == order_id for refund in self.refunds.values()):
                raise ConflictError(f"order {order_id} was refunded already")
            made = {"refund_id": f"R-{len(self.refunds) + 1}", "order_id": order_id, "amount": amount}
            self.refunds[key] = made
            return made
