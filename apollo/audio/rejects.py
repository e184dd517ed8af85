"""Kinds of reasons for which audio is rejected: few, so that rejects can be counted by them."""

from enum import StrEnum


class RejectKind(StrEnum):
    """Kind of a reason; docs/observability.md describes each."""

    ENCODER = "encoder"
    FFMPEG = "ffmpeg"
    DAMAGED = "damaged"
    UNDECODABLE = "undecodable"
    UNOPENED = "unopened"
    EMPTY = "empty"
    SILENT = "silent"
    NOT_FINITE = "not_finite"
    TOO_LOUD = "too_loud"
    TOO_LONG = "too_long"
    LISTING = "listing"
    KILLED = "killed"
    MEMORY = "memory"
    OTHER = "other"


class RejectError(RuntimeError):
    """Audio is rejected; the text is the reason.

    Args:
        reason: A sentence.
        kind: Its kind; unset takes the class's.
    """

    kind = RejectKind.OTHER

    def __init__(self, reason: str, kind: RejectKind | None = None) -> None:
        super().__init__(reason)
        self.kind = kind or self.kind


class AudioError(RejectError):
    """A file cannot be read, or its content contradicts its header."""
