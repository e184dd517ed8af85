"""The error that is the user's to mend."""


class UsageError(ValueError):
    """What was asked for cannot be done as asked; the text says what, why, and what to do."""


class FinalError(RuntimeError):
    """What running the same again would meet again."""
