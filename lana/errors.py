"""The types of errors: `LanaError` is the root, `UserError` is for mistakes that the user can correct."""


class LanaError(Exception):
    """The root of everything that this package raises on purpose."""


class UserError(LanaError):
    """A mistake that the user can correct: the message has the value given, the one expected and the next step."""


class BudgetUnreachable(UserError):
    """No selection meets the budget; `fastest_ms` is the fastest reachable latency, None where there are several
    budgets, of devices that are not here."""

    def __init__(self, message: str, *, fastest_ms: float | None) -> None:
        super().__init__(message)
        self.fastest_ms = fastest_ms
