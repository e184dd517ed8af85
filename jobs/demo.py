"""Make shards from the built-in album of generated music, or from your own data.

make demo
make demo DATA=/your/folder
"""

import sys
from pathlib import Path

from jsonargparse import ArgumentParser

from pipelines.demo import album_folders
from pipelines.preprocess import PreprocessConfig, preprocess

_CONFIG = Path(__file__).parent / "configs" / "preprocess" / "demo.yaml"


def main(arguments: list[str] | None = None) -> int:
    """Run the demo and return its exit code."""
    parser = ArgumentParser(
        prog="demo", description=__doc__, allow_abbrev=False, default_config_files=[str(_CONFIG)]
    )
    parser.add_argument("--output", type=str, default="demo", help="folder for the album and the shards")
    parser.add_argument(
        "--data", type=str, nargs="+", default=[], help="your own folders instead of the album"
    )
    parser.add_argument("--soundfont", type=Path, default=None, help="another SoundFont for the album")
    parser.add_class_arguments(PreprocessConfig, skip={"data", "output"})
    try:
        values = parser.instantiate(parser.parse_args(arguments)).as_dict()
    except ValueError as error:
        parser.error(str(error))
    output, data, soundfont = (values.pop(name) for name in ("output", "data", "soundfont"))
    try:
        data = data or album_folders(Path(output).absolute() / "album", soundfont)
        config = PreprocessConfig(**values, data=data, output=str(Path(output) / "shards"))
    except ValueError as error:
        parser.error(str(error))
    outcome = preprocess(config)
    print(f"demo: {outcome.message}", file=sys.stderr)
    if outcome.report:
        print(f"open {config.output}/report.html", file=sys.stderr)
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
