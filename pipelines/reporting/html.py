"""HTML reports: the environment of their templates."""

import jinja2

from apollo.listening.html import content_digest


def template_environment() -> jinja2.Environment:
    """Return the environment of the templates, which escapes what it inserts.

    Its filter `digest` names a script or style in a page's content security policy.
    """
    environment = jinja2.Environment(loader=jinja2.PackageLoader("pipelines.reporting"), autoescape=True)
    environment.filters["digest"] = content_digest
    return environment
