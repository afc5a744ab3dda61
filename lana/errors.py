"""What can go wrong, as types: `LanaError` is the root, `UserError` is for what the user can mend."""


class LanaError(Exception):
    """The root of everything that this package raises on purpose."""


class UserError(LanaError):
    """A mistake that the user can mend: the message says what was given, what was expected, what to do next."""


class BudgetUnreachable(UserError):
    """No selection meets the budget; `fastest_ms` is the fastest reachable latency, None where there are several
    budgets, of devices that are not here."""

    def __init__(self, message: str, *, fastest_ms: float | None) -> None:
        super().__init__(message)
        self.fastest_ms = fastest_ms
