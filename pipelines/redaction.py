"""Secrets in URIs: passwords and keys are replaced before anything is logged or stored."""

import re

_USER = re.compile(
    r"(?<=://)([^/@:\s]*):(?!\d+(?:[/?#\s]|$))[^@\s]*@"
)  # a number after a colon may be a port
_QUERY = re.compile(
    r"(?i)([?&;](?:[\w-]*(?:password|passwd|pwd|secret|token|signature|credential|api_?key|access_?key)[\w-]*"
    r"|sig)=)[^&;#\s'\"]+"
)


def redact(text: str) -> str:
    """Return a URI, or a text that contains URIs, with passwords and keys replaced by ***."""
    return _QUERY.sub(r"\1***", _USER.sub(r"\1:***@", text))


def has_secret(location: str) -> bool:
    """Return whether a URI contains a password or a key."""
    return redact(location) != location
