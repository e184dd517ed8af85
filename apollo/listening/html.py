"""HTML pages: files of this package, templates that escape what is inserted, content security digests."""

import base64
import hashlib
import html
import string
from collections.abc import Iterable, Mapping
from importlib.resources import files


class Html(str):
    """HTML that is inserted as it is; any other text is escaped."""


def read_asset(name: str) -> str:
    """Return a file of this package: such as `player.js`."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def fill(template: str, **values: object) -> Html:
    """Insert values at the `$names` of a template, escaped unless they are `Html`."""
    escaped = {
        name: value if isinstance(value, Html) else html.escape(str(value)) for name, value in values.items()
    }
    return Html(string.Template(template).substitute(escaped))


def fill_all(template: str, rows: Iterable[Mapping[str, object]]) -> Html:
    """Fill a template once for each row, and join the results."""
    return Html("".join(fill(template, **row) for row in rows))


def content_digest(source: str) -> str:
    """Return the name of a script or style in a content security policy, which lets nothing else run."""
    return f"sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}"


def data_uri(content: bytes, media_type: str) -> str:
    """Return content as a data URI.

    Args:
        content: Bytes of the file.
        media_type: Its type, such as `image/png`.
    """
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
