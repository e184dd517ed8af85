"""The command `apollo web`: its options; no import of torch or FastAPI, to keep `--help` fast."""

import argparse
from pathlib import Path

from apollo.cli.options import DONE, UsageError, add_checkpoint_option, add_device_options
from apollo.web.settings import ModelOptions, WebSettings

EXAMPLES = """examples:
  apollo web --open                                on this machine, in the browser
  apollo web --port 0 --max-mb 100 --max-minutes 15
  apollo web --host 0.0.0.0                        for others, who need the printed access token
  curl --data-binary @song.mp3 'http://127.0.0.1:8642/api/restore?name=song.mp3&format=flac24' -o song.flac"""


def add_web_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    limits = WebSettings()

    def add(name: str, default: float | str, text: str) -> None:
        parser.add_argument(name, type=type(default), default=default, help=f"{text} (%(default)s)")

    text = "address to listen on; others than this machine's own need a token: --token, or a generated one"
    add("--host", "127.0.0.1", text)
    add("--port", 8642, "port; 0 takes a free one")
    parser.add_argument(
        "--token", help="access token of at least 16 characters; generated where one is needed"
    )
    parser.add_argument(
        "--token-file", help="file with the access token, which other users then cannot see in `ps`"
    )
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    add_checkpoint_option(parser)
    add_device_options(parser)
    add("--max-mb", limits.max_bytes / 1e6, "largest file in MB")
    add("--max-minutes", limits.max_seconds / 60, "longest song in minutes")
    add("--max-queue", limits.max_queue, "songs and downloads that may wait")
    add("--disk-gb", limits.disk_bytes / 1e9, "room for all songs and results in GB; the oldest are deleted")
    add("--keep-hours", limits.keep_seconds / 3600, "hours after which a song is deleted")
    parser.add_argument(
        "--folder", help="folder in which the temporary folder is made; the system's by default"
    )


def web(options: argparse.Namespace) -> int:
    """Serve until interrupted, and return the exit code.

    Raises:
        UsageError: an option or the checkpoint is invalid.
    """
    try:
        from apollo.web.server import choose_access, serve
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("fastapi", "uvicorn", "starlette"):
            raise
        raise UsageError("web needs more packages: pip install 'apollo-restoration[web]'") from error
    try:
        limits = WebSettings(
            max_bytes=round(options.max_mb * 1e6),
            max_seconds=options.max_minutes * 60,
            max_queue=options.max_queue,
            disk_bytes=round(options.disk_gb * 1e9),
            keep_seconds=options.keep_hours * 3600,
        )
        settings = choose_access(limits, options.host, _read_token(options))
        model = ModelOptions(
            checkpoint=options.checkpoint, device=options.device, precision=options.precision
        )
        place = {"host": options.host, "port": options.port, "folder": options.folder}
        serve(model, settings, **place, open_page=options.open)
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(error) from error
    return DONE


def _read_token(options: argparse.Namespace) -> str | None:
    if options.token_file is None:
        return options.token  # type: ignore[no-any-return]
    if options.token is not None:
        raise UsageError("--token and --token-file: give one of them")
    try:
        return Path(options.token_file).read_text().strip()
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"--token-file {options.token_file} cannot be read: {reason}") from error
