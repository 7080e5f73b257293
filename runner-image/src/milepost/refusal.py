"""What stops the walk over a value that can't be recorded: the place is put together on the way out."""


class RefusedError(Exception):
    """`kind`: the Python type; `parts`: the way to it, innermost first."""

    def __init__(self, kind: str, code: str, detail: str, parts: list[str | int] | None = None) -> None:
        super().__init__(detail)
        self.kind = kind
        self.code = code
        self.detail = detail
        self.parts: list[str | int] = parts or []
