"""HTML reports: the template environment, content security digests, data URIs."""

import base64
import hashlib

import jinja2


def template_environment() -> jinja2.Environment:
    """Return the environment of the templates, which escapes what it inserts.

    Its filter `digest` names a script or style in a page's content security policy.
    """
    environment = jinja2.Environment(loader=jinja2.PackageLoader("pipelines.reporting"), autoescape=True)
    environment.filters["digest"] = content_digest
    return environment


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
