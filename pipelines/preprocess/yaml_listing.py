"""Read the YAML file that lists a song's stems, as Slakh2100 and MedleyDB have it."""

from typing import Any

import yaml

from pipelines.storage.folder import Folder
from pipelines.storage.object_store import StoreError


def read_yaml_listing(root: str, name: str) -> tuple[dict[str, Any] | None, str]:
    """Read a file with `stems`, facts by stem; None and the reason if it has none.

    Args:
        root: Folder or URI.
        name: Name relative to the root.
    """
    try:
        listing = yaml.safe_load(Folder(root).read(name))
    except StoreError:
        raise  # not an error of the song
    except (ValueError, RecursionError, OSError, yaml.YAMLError) as error:
        return None, f"{type(error).__name__}: {error}".partition("\n")[0]
    stems = listing.get("stems") if isinstance(listing, dict) else None
    if not isinstance(stems, dict) or not all(isinstance(facts, dict) for facts in stems.values()):
        return None, "it has no stems"
    return listing, ""
