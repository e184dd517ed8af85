"""Models that are known by name: what `apollo models` lists, and SHA-256 of the published files.

Size and digest of the official file are the same in several programs that use it; those of
`apollo_model_uni.ckpt` are from one program's list. Licences are those of the pages named.
"""

from dataclasses import dataclass

from apollo.model.config import COMPACT


@dataclass(frozen=True)
class KnownModel:
    """A model that can be had by its name.

    Attributes:
        name: What `--checkpoint` and `apollo.load` take: `compact`, or `owner/name/path/to/file` on Hugging
            Face.
        purpose: What it restores.
        parameters: Number of parameters.
        size_bytes: Size of its file.
        licence: SPDX identifier, or that none is stated.
        sha256: Digest of its file.
        page: Where it is described.
    """

    name: str
    purpose: str
    parameters: int
    size_bytes: int
    licence: str
    sha256: str
    page: str

    @property
    def repository(self) -> str:
        """Its repository on Hugging Face; empty for the model in the package."""
        return "/".join(self.name.split("/")[:2]) if "/" in self.name else ""

    @property
    def file(self) -> str:
        """Path of its file in the repository; empty for the model in the package."""
        return "/".join(self.name.split("/")[2:])


KNOWN_MODELS = (
    KnownModel(
        name=COMPACT,
        purpose="music from MP3 at 24 to 128 kbps, many times faster than real time; in the package",
        parameters=2_143_086,
        size_bytes=4_296_988,
        licence="Apache-2.0",
        sha256="54518c5af792172bc2a9c0e46de263a2672e118f5dae2062b9c5815c49336736",
        page="docs/compact.md",
    ),
    KnownModel(
        name="JusperLee/Apollo/pytorch_model.bin",
        purpose="music from MP3 at 24 to 128 kbps: the paper's network, as published",
        parameters=16_539_308,
        size_bytes=66_541_845,
        licence="CC-BY-SA-4.0",
        sha256="99d9af7f1ff20e63c393035513a655392818d66b4d7fc23d658175c1f15e8d76",
        page="https://huggingface.co/JusperLee/Apollo",
    ),
    KnownModel(
        name="Sucial/MSST-WebUI/All_Models/single_stem_models/apollo_model_uni.ckpt",
        purpose="music from any lossy codec: Lew's universal model, a larger network of the same kind",
        parameters=36_604_076,
        size_bytes=146_867_952,
        licence="not stated",
        sha256="11433256eca90143d32f1108d156ac756fd0201fbc69e5f736def4062fb52186",
        page="https://github.com/deton24/Lew-s-vocal-enhancer-for-Apollo-by-JusperLee",
    ),
)


def find_known(name: str) -> KnownModel | None:
    """Return the known model of a name: its own, or that of its repository alone."""
    return next((model for model in KNOWN_MODELS if name in (model.name, model.repository)), None)


def find_licence(sha256: str) -> str | None:
    """Return the licence of the known model whose file has this digest."""
    return next((model.licence for model in KNOWN_MODELS if model.sha256 == sha256), None)
