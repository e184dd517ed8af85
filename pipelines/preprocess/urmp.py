"""URMP: AuMix_01_Jupiter_vn_vc.wav and AuSep_1_vn_01_Jupiter.wav … in a folder for each piece.

Source: the data set's description (Li et al., 2018), for the names of files and the codes of instruments.
"""

import posixpath
import re
from collections import defaultdict

from pipelines.preprocess.songs import DiscoveryResult, Song, full_file, full_name, name_without_extension
from pipelines.preprocess.split_folders import SplitFolders
from pipelines.preprocess.stem_names import nfc
from pipelines.schema import MIXTURE
from pipelines.storage.folder import Entry

URMP = "urmp"
_STEM_OF_CODE = {
    **dict.fromkeys(("vn", "va", "vc"), "bowed_strings"),
    "db": "bass",  # a double bass, as in MedleyDB
    **dict.fromkeys(("fl", "ob", "cl", "sax", "bn", "tpt", "hn", "tbn", "tba"), "wind"),
}
_TRACK = re.compile(rf"AuSep_\d+_({'|'.join(_STEM_OF_CODE)})_(.+)")
_WHOLE = re.compile(rf"(AuMix|Vid)_(.+?)(?:_(?:{'|'.join(_STEM_OF_CODE)}))+")


def take_urmp_pieces(
    root: str, folder: str, files: list[Entry], splits: SplitFolders, discovered: DiscoveryResult
) -> list[Entry]:
    """Add the pieces of a folder as songs; return the other files.

    Videos are ignored: their sound is the mix.
    """
    pieces: dict[str, dict[str, list[Entry]]] = defaultdict(lambda: defaultdict(list))
    others, whole = [], []
    for file in files:
        name = nfc(name_without_extension(file))
        if found := _TRACK.fullmatch(name):
            pieces[found[2]][_STEM_OF_CODE[found[1]]].append(file)
        elif found := _WHOLE.fullmatch(name):
            whole.append((file, found))
        else:
            others.append(file)
    for file, found in whole:
        if found[2] not in pieces:
            others.append(file)
        elif found[1] == "AuMix":
            pieces[found[2]][MIXTURE].append(file)
        else:
            discovered.ignored_files += 1
    for title, stems in sorted(pieces.items()):
        sources = {stem: tuple(full_file(root, file) for file in found) for stem, found in stems.items()}
        recording = full_name(root, posixpath.join(folder, title))
        split = splits.split_of(root, folder)
        song = Song(URMP, f"{URMP}/{title}", "", title, split, sources, recording=recording)
        discovered.songs.append(song)
    return others
