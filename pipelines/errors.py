"""The error that is the user's to mend."""

from pipelines.redaction import shown


class UsageError(ValueError):
    """What was asked for cannot be done as asked; the text says what, why, what to do, and no password."""

    def __init__(self, text: str) -> None:
        super().__init__(shown(text))


class FinalError(RuntimeError):
    """What running the same again would meet again."""
