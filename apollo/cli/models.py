"""`apollo models` and `apollo push`: models known by name, and publishing one's own on Hugging Face."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from apollo.cli.options import DONE, FAILED, UsageError, print_line


def add_models_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `apollo models`."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="download these models")
    parser.add_argument("--json", action="store_true", help="as one JSON list")


def models(options: argparse.Namespace) -> int:
    """List the known models, or download some and print their paths."""
    from apollo.checkpoints.known_models import KNOWN_MODELS

    if options.names:
        return _download(options.names)
    if options.json:
        print_line(json.dumps([asdict(model) for model in KNOWN_MODELS], indent=2))
        return DONE
    for model in KNOWN_MODELS:
        print_line(f"{model.name}\n    {model.purpose}")
        size = f"{model.size_bytes / 1e6:.1f} MB, {model.parameters / 1e6:.1f} million parameters"
        print_line(f"    {size}; licence {model.licence}; {model.page}\n    sha256 {model.sha256}")
    return DONE


def _download(names: list[str]) -> int:
    from apollo.checkpoints.checkpoint import CheckpointError, describe

    failed = False
    for name in names:
        try:
            facts = describe(name)
        except CheckpointError as error:
            print(f"apollo: {error}", file=sys.stderr)
            failed = True
        else:
            print_line(f"{name}: {facts['path']}")
    return FAILED if failed else DONE


def add_push_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `apollo push`."""
    parser.add_argument("name", metavar="OWNER/NAME", help="repository; created if it does not exist")
    parser.add_argument(
        "--checkpoint",
        required=True,
        help="what to publish: compact, checkpoint folder or file, Hugging Face name, MLflow URI",
    )
    text = "licence of the weights: apache-2.0, cc-by-4.0, other ...; by default that of the model card"
    parser.add_argument("--license", help=text)
    text = "model card; by default README.md beside the checkpoint, or else one that is generated"
    parser.add_argument("--card", type=Path, metavar="FILE", help=text)
    text = "create the repository as a private one; one that exists keeps its visibility"
    parser.add_argument("--private", action="store_true", default=None, help=text)
    parser.add_argument(
        "--message", default="Publish a generator", help="message of the commit (%(default)s)"
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FOLDER", help="write the files here, and publish nothing"
    )


def push(options: argparse.Namespace) -> int:
    """Publish a checkpoint, or write what would be published."""
    from apollo.checkpoints.checkpoint import CheckpointError, locate
    from apollo.checkpoints.hub import require_hub

    try:
        require_hub("apollo push")
        from apollo.checkpoints import sharing

        generator = sharing.PretrainedGenerator.from_checkpoint(options.checkpoint)
        beside = locate(options.checkpoint) / sharing.CARD
        path = options.card or (beside if beside.is_file() else None)
        if path is None:
            card = generator.generate_model_card(name=options.name)
        else:
            card = sharing.complete_card(path.read_text(encoding="utf-8"))
        card.data.license = options.license or card.data.license
        if not card.data.license:
            raise UsageError("the licence of the weights is unknown: name it with --license")
        if options.output:
            sharing.write_repository(generator, options.output, card)
            print_line(str(options.output))
            return DONE
    except (CheckpointError, OSError, UnicodeDecodeError) as error:
        raise UsageError(error) from error
    try:
        print_line(
            sharing.push(generator, options.name, card, private=options.private, message=options.message)
        )
    except CheckpointError as error:
        print(f"apollo: {error}", file=sys.stderr)
        return FAILED
    return DONE
