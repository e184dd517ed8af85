"""A page in the browser to restore songs and hear them before and after: `apollo web`."""
