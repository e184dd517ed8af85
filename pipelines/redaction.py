"""Passwords and keys in URIs: what is said and kept is without them, and places for data have none at all."""

import re

_USER = re.compile(r"(?<=://)([^/@:\s]*):(?!\d+(?:[/?#\s]|$))[^@\s]*@")  # what follows a colon may be a port
_QUERY = re.compile(
    r"(?i)([?&;](?:[\w-]*(?:password|passwd|pwd|secret|token|signature|credential|api_?key|access_?key)[\w-]*"
    r"|sig)=)[^&;#\s'\"]+"
)


def redact(text: str) -> str:
    """Give a URI, or a text with some in it, without passwords."""
    return _QUERY.sub(r"\1***", _USER.sub(r"\1:***@", text))


def has_secret(location: str) -> bool:
    """Tell whether a URI has a password or a key in it."""
    return redact(location) != location
