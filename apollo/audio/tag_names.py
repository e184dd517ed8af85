"""Names of tags in every format. The common name is that of Vorbis comments, as MusicBrainz Picard maps them.

Names that stand nowhere here are kept as they are: as a Vorbis comment, TXXX frame or freeform atom.
"""

_NAMES = """
TITLE                        TIT2  ©nam  Title
SUBTITLE                     TIT3  -     WM/SubTitle
ARTIST                       TPE1  ©ART  Author
ALBUM                        TALB  ©alb  WM/AlbumTitle
ALBUMARTIST                  TPE2  aART  WM/AlbumArtist
CONDUCTOR                    TPE3  -     WM/Conductor
REMIXER                      TPE4  -     WM/ModifiedBy
COMPOSER                     TCOM  ©wrt  WM/Composer
LYRICIST                     TEXT  -     WM/Writer
DATE                         TDRC  ©day  WM/Year
ORIGINALDATE                 TDOR  -     WM/OriginalReleaseTime
RELEASETIME                  TDRL  -     -
GENRE                        TCON  ©gen  WM/Genre
MOOD                         TMOO  -     WM/Mood
GROUPING                     TIT1  ©grp  WM/ContentGroupDescription
BPM                          TBPM  -     WM/BeatsPerMinute
KEY                          TKEY  -     WM/InitialKey
ISRC                         TSRC  -     WM/ISRC
COPYRIGHT                    TCOP  cprt  Copyright
LABEL                        TPUB  -     WM/Publisher
LANGUAGE                     TLAN  -     WM/Language
MEDIA                        TMED  -     WM/Media
DISCSUBTITLE                 TSST  -     WM/SetSubTitle
COMPILATION                  TCMP  -     WM/IsCompilation
COMMENT                      -     ©cmt  Description
DESCRIPTION                  TDES  desc  -
LYRICS                       -     ©lyr  WM/Lyrics
WORK                         -     ©wrk  WM/Work
MOVEMENTNAME                 MVNM  ©mvn  -
PODCASTURL                   WFED  purl  -
PODCASTCATEGORY              TCAT  catg  -
PODCASTKEYWORDS              TKWD  keyw  -
PODCASTID                    TGID  egid  -
SHOW                         -     tvsh  -
TITLESORT                    TSOT  sonm  WM/TitleSortOrder
ARTISTSORT                   TSOP  soar  WM/ArtistSortOrder
ALBUMSORT                    TSOA  soal  WM/AlbumSortOrder
ALBUMARTISTSORT              TSO2  soaa  WM/AlbumArtistSortOrder
COMPOSERSORT                 TSOC  soco  WM/ComposerSortOrder
SHOWSORT                     -     sosn  -
ENCODER                      TSSE  ©too  WM/EncodingSettings
TRACKNUMBER                  TRCK  -     WM/TrackNumber
DISCNUMBER                   TPOS  -     WM/PartOfSet
MOVEMENT                     MVIN  -     -
BARCODE                      -     -     WM/Barcode
CATALOGNUMBER                -     -     WM/CatalogNo
"""
_ROWS = [line.split() for line in _NAMES.strip().splitlines()]
_MUSICBRAINZ = {  # common name: what TXXX, freeform atoms and ASF (with a slash) have
    "MUSICBRAINZ_ARTISTID": "MusicBrainz Artist Id",
    "MUSICBRAINZ_ALBUMID": "MusicBrainz Album Id",
    "MUSICBRAINZ_ALBUMARTISTID": "MusicBrainz Album Artist Id",
    "MUSICBRAINZ_TRACKID": "MusicBrainz Track Id",
    "MUSICBRAINZ_RELEASETRACKID": "MusicBrainz Release Track Id",
    "MUSICBRAINZ_RELEASEGROUPID": "MusicBrainz Release Group Id",
    "MUSICBRAINZ_WORKID": "MusicBrainz Work Id",
    "MUSICBRAINZ_DISCID": "MusicBrainz Disc Id",
    "RELEASESTATUS": "MusicBrainz Album Status",
    "RELEASETYPE": "MusicBrainz Album Type",
    "RELEASECOUNTRY": "MusicBrainz Album Release Country",
    "ACOUSTID_ID": "Acoustid Id",
    "ACOUSTID_FINGERPRINT": "Acoustid Fingerprint",
}
ID3 = {row[1]: row[0] for row in _ROWS if row[1] != "-"} | {"GRP1": "GROUPING"}
TO_ID3 = {row[0]: row[1] for row in _ROWS if row[1] != "-"}
MP4 = {row[2]: row[0] for row in _ROWS if row[2] != "-"}
TO_MP4 = {row[0]: row[2] for row in _ROWS if row[2] != "-"}
MP4_INTEGERS = {"tmpo": "BPM", "rtng": "ITUNESADVISORY", "stik": "ITUNESMEDIATYPE", "shwm": "SHOWMOVEMENT"}
MP4_FLAGS = {"cpil": "COMPILATION", "pgap": "ITUNESGAPLESS", "pcst": "ITUNESPODCAST"}
MP4_PAIRS = {"trkn": ("TRACKNUMBER", "TRACKTOTAL"), "disk": ("DISCNUMBER", "DISCTOTAL")}
ASF = {row[3]: row[0] for row in _ROWS if row[3] != "-"} | {
    name.replace(" ", "/", 1): common for common, name in _MUSICBRAINZ.items()
}
FREEFORM = {name.upper(): common for common, name in _MUSICBRAINZ.items()}
TO_FREEFORM = _MUSICBRAINZ
PEOPLE = {  # roles in ID3's list of involved people
    "arranger": "ARRANGER",
    "engineer": "ENGINEER",
    "producer": "PRODUCER",
    "mix": "MIXER",
    "DJ-mix": "DJMIXER",
}
TOTALS = {"TRACKNUMBER": "TRACKTOTAL", "DISCNUMBER": "DISCTOTAL", "MOVEMENT": "MOVEMENTTOTAL"}
STANDARD = {row[0] for row in _ROWS} | set(_MUSICBRAINZ) | set(PEOPLE.values()) | set(TOTALS.values())
SYNONYMS = {
    "ALBUM ARTIST": "ALBUMARTIST",
    "ALBUM_ARTIST": "ALBUMARTIST",
    "TRACK": "TRACKNUMBER",
    "DISC": "DISCNUMBER",
    "TOTALTRACKS": "TRACKTOTAL",
    "TOTALDISCS": "DISCTOTAL",
    "YEAR": "DATE",
    "UNSYNCEDLYRICS": "LYRICS",
    "UNSYNCED LYRICS": "LYRICS",
    "INITIALKEY": "KEY",
    "MIXARTIST": "REMIXER",
}
# about levels and the encoder of the file as it was, which are others in the restored one
_DROPPED = """
ENCODER ENCODERSETTINGS ENCODER_OPTIONS ENCODING ENCODEDBY ENCODED-BY ENCODED_BY TENC TLEN TSIZ TFLT LENGTH
TOOL ITUNNORM ITUNSMPB ITUNPGAP MAJOR_BRAND MINOR_VERSION COMPATIBLE_BRANDS
AVERAGELEVEL PEAKVALUE ISVBR WMFSDKVERSION WMFSDKNEEDED DEVICECONFORMANCETEMPLATE
WM/ENCODINGSETTINGS WM/ENCODINGTIME WM/ENCODEDBY
"""
DROPPED = frozenset(_DROPPED.split())
DROPPED_BEGINNINGS = (
    "REPLAYGAIN_",
    "R128_",
    "MP3GAIN_",
    "COMMENT:ITUNNORM",
    "COMMENT:ITUNSMPB",
    "COMMENT:ITUNPGAP",
)
