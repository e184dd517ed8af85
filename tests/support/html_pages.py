"""HTML pages, parsed for tests of what they contain and load."""

from html.parser import HTMLParser


class ParsedPage(HTMLParser):
    """Tags, addresses, policy, code and text of a page, as a browser parses it.

    Args:
        page: HTML.
        json_is_code: Whether data blocks (`application/json`) count as code; otherwise they are text.
    """

    def __init__(self, page: str, *, json_is_code: bool = True) -> None:
        super().__init__()
        self._json_is_code = json_is_code
        self.tags: list[str] = []
        self.loaded: list[str] = []
        self.policy = ""
        self.code: dict[str, list[str]] = {"script": [], "style": []}
        self.seen = ""
        self._inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        assert not [name for name in given if name.startswith("on") or name == "style"]
        self.tags.append(tag)
        self.loaded += [str(given[name]) for name in ("src", "href", "data-source") if name in given]
        self.policy += str(given["content"]) if given.get("http-equiv") == "Content-Security-Policy" else ""
        is_code = tag in self.code and (self._json_is_code or given.get("type") != "application/json")
        self._inside = tag if is_code else ""

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.code[self._inside].append(data)
        else:
            self.seen += data
