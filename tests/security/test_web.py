"""`apollo web` against hostile songs, clients and pages."""

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from apollo.web import application
from apollo.web.access import HEADERS
from apollo.web.application import create_application
from apollo.web.server import choose_access
from apollo.web.settings import ModelOptions, WebSettings
from apollo.web.song_folder import SongFolder, SongStore
from apollo.web.worker import LocalWorker
from tests.support.datasets import music, write
from tests.support.web_server import Client, IdleWorker, serve

LIMITS = WebSettings(
    max_bytes=300_000, max_seconds=20.0, max_queue=2, disk_bytes=2_000_000, upload_grace_seconds=0.7
)
TOKEN = "0123456789abcdef-of-a-test"  # noqa: S105 - of nothing
NAMES = [
    "../../../etc/passwd",
    "..\\..\\boot.ini",
    "/etc/passwd",
    'a"; rm -rf ~; ".mp3',
    "<script>window.hacked=1</script>.mp3",
    "a\r\nSet-Cookie: hacked=1.mp3",
    "\0.mp3",
    ".",
    "..",
    "",
    "-y",
    "x" * 900,
    "e\u0301\u202emp3.\U0001f600",
    "song.mp3/../../x",
]


@pytest.fixture
def store(tmp_path: Path) -> SongStore:
    return SongStore(tmp_path / "web")


@pytest.fixture
def worker(store: SongStore) -> IdleWorker:
    return IdleWorker(store)


@pytest.fixture
def client(store: SongStore, worker: IdleWorker) -> Iterator[Client]:
    with serve(create_application(store, worker, LIMITS)) as port:
        yield Client(port)


def is_empty(store: SongStore) -> bool:
    """Return whether the store is without songs and uploads, waiting for the end of a request."""
    end = time.monotonic() + 5
    while any((store.root / "songs").iterdir()) and time.monotonic() < end:
        time.sleep(0.02)
    return not any((store.root / "songs").iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_text_and_no_path(client: Client, store: SongStore, name: str) -> None:
    added = client.upload(name, b"x")
    assert added.status == 201, added.body
    shown = added.json["name"]
    assert shown and "/" not in shown and "\\" not in shown and len(shown) <= 200
    assert all(letter.isprintable() for letter in shown)
    (folder,) = (store.root / "songs").iterdir()
    assert {path.name.partition(".")[0] for path in folder.iterdir()} == {"upload", "jobs", "song"}
    assert re.fullmatch(r"upload(\.[A-Za-z0-9]{1,8})?", next(folder.glob("upload*")).name)
    assert [path.name for path in store.root.parent.iterdir()] == ["web"]


@pytest.mark.parametrize("path", ["", "/results?format=flac24", "/parts/before/0", "/spectrograms/before"])
@pytest.mark.parametrize("song_id", ["..", "%2e%2e%2f%2e%2e", "0" * 48, "x"])
def test_an_invented_song_is_not_found(client: Client, store: SongStore, song_id: str, path: str) -> None:
    for folder in (store.root, store.root.parent, store.root / "songs" / "x"):
        folder.mkdir(exist_ok=True)
        (folder / "song.json").write_text('{"name": "a", "created": 0}')
    assert client.ask("GET", f"/api/songs/{song_id}{path}").status == 404


@pytest.mark.parametrize(
    "place", ["parts/..%2f..%2fsong/0", "parts/before/-1", "parts/before/x", "parts/song/0"]
)
def test_only_pieces_are_sent(client: Client, store: SongStore, place: str) -> None:
    added = client.upload("song.mp3", b"x").json
    song = store.open(added["id"])
    song.write_job("parts", "ready", parts=["before"], pieces=1)
    assert client.ask("GET", f"/api/songs/{added['id']}/{place}").status in (404, 422)


def test_results_are_those_of_known_formats_and_strengths(client: Client) -> None:
    added = client.upload("song.mp3", b"x").json
    for query in (
        "format=exe",
        "format=..%2fx",
        "strength=2",
        "strength=nan",
        "strength=-0.1",
        "strength=0.1234",
    ):
        answer = client.ask("POST", f"/api/songs/{added['id']}/results?{query}")
        assert answer.status == 422
        assert answer.error


def test_a_large_upload_is_refused_before_it_is_read(client: Client, store: SongStore) -> None:
    with socket.create_connection(("127.0.0.1", client.port), timeout=20) as connection:
        connection.sendall(
            b"POST /api/songs?name=a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000000000\r\n\r\n"
        )
        assert b" 413 " in connection.recv(1000).partition(b"\r\n")[0]
    assert is_empty(store)


def test_an_upload_without_a_length_is_cut_off_at_the_limit(client: Client, store: SongStore) -> None:
    answer = client.ask("POST", "/api/songs?name=a", (bytes(50_000) for _ in range(7)))
    assert (answer.status, answer.error) == (413, "the file is larger than 0.3 MB")
    assert is_empty(store)


@pytest.mark.parametrize("declared", [b"Content-Length: 100000", b"Transfer-Encoding: chunked"])
def test_a_slow_upload_is_cut_off(client: Client, store: SongStore, declared: bytes) -> None:
    block = b"1\r\nx\r\n" if b"chunked" in declared else b"x"
    with socket.create_connection(("127.0.0.1", client.port), timeout=20) as connection:
        connection.sendall(b"POST /api/songs?name=a HTTP/1.1\r\nHost: localhost\r\n" + declared + b"\r\n\r\n")
        connection.settimeout(0.1)
        began, answer = time.monotonic(), b""
        while not answer and time.monotonic() < began + 10:
            try:
                connection.sendall(block)
                answer = connection.recv(1000)
            except TimeoutError:
                continue
    assert b" 408 " in answer.partition(b"\r\n")[0]
    assert time.monotonic() - began < 5
    assert is_empty(store)


def test_an_upload_that_ends_early_leaves_nothing(client: Client, store: SongStore) -> None:
    with socket.create_connection(("127.0.0.1", client.port), timeout=20) as connection:
        connection.sendall(
            b"POST /api/songs?name=a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nx"
        )
        time.sleep(0.1)
    assert is_empty(store)


def test_a_full_queue_is_429_and_says_when_to_come_again(client: Client) -> None:
    added = [client.upload("song.mp3", b"x").json for _ in range(2)]
    assert [one["listening"]["position"] for one in added] == [0, 1]
    for answer in (
        client.upload("song.mp3", b"x"),
        client.ask("POST", f"/api/songs/{added[0]['id']}/results"),
        client.ask("POST", "/api/restore", b"x"),
    ):
        assert answer.status == 429
        assert answer.headers["retry-after"] == "15"
    client.ask("DELETE", f"/api/songs/{added[0]['id']}")
    assert client.upload("song.mp3", b"x").status == 201


def test_a_full_disk_is_503_and_old_songs_make_room(
    client: Client, store: SongStore, worker: IdleWorker
) -> None:
    worker.inspection = worker.inspection | {"seconds": 0.5}  # 0.4 MB of parts
    old = client.upload("old.mp3", bytes(200_000)).json["id"]
    store.open(old).piece("before", 0).parent.mkdir()
    store.open(old).piece("before", 0).write_bytes(bytes(1_500_000))
    assert client.upload("new.mp3", bytes(200_000)).status == 503  # the old one is being restored
    assert store.open(old).exists
    store.open(old).write_job("parts", "ready")
    store.dequeue(old)  # as its worker does then
    assert client.upload("new.mp3", bytes(200_000)).status == 201
    assert client.ask("GET", f"/api/songs/{old}").status == 404


def test_songs_that_wait_have_room_for_what_they_will_be(
    client: Client, store: SongStore, worker: IdleWorker
) -> None:
    worker.inspection = worker.inspection | {"seconds": 1.5}  # 1.2 MB of parts, of 2 MB in all
    first = client.upload("first.mp3", b"x").json["id"]
    refused = client.upload("second.mp3", b"x")
    assert (refused.status, refused.headers["retry-after"]) == (503, "15")
    assert client.ask("POST", f"/api/songs/{first}/results").status == 503  # another 1.1 MB
    store.open(first).write_job("parts", "ready")
    store.dequeue(first)  # as its worker does then
    assert client.upload("second.mp3", b"x").status == 201
    assert store.open(first).exists


class HastyWorker(IdleWorker):
    """Has the result of a song at once, and then does what a test says."""

    def __init__(self, songs: SongStore) -> None:
        super().__init__(songs)
        self.then: Callable[[SongFolder], None] = lambda _: None

    def submit(self, song: SongFolder, job: str) -> None:
        path = song.result(job, "flac")
        path.parent.mkdir()
        path.write_bytes(b"restored")
        song.write_job(job, "ready")
        self.then(song)


def test_a_restored_song_that_makes_room_for_others_is_503(store: SongStore) -> None:
    worker = HastyWorker(store)
    with serve(create_application(store, worker, LIMITS)) as port:
        client = Client(port)
        assert client.ask("POST", "/api/restore", b"x").body == b"restored"
        worker.then = lambda song: song.result("flac24-default", "flac").unlink()
        for _ in range(2):
            answer = client.ask("POST", "/api/restore?name=a.mp3", b"x")
            assert (answer.status, answer.headers["retry-after"]) == (503, "15")
            worker.then = store.remove
    assert is_empty(store)


def test_a_restored_song_that_is_removed_while_it_is_sent_is_sent(
    store: SongStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = application._result_stream

    def answer_and_remove(song: SongFolder, *arguments: Any) -> Any:
        found = answer(song, *arguments)
        store.remove(song)
        return found

    monkeypatch.setattr(application, "_result_stream", answer_and_remove)
    with serve(create_application(store, HastyWorker(store), LIMITS)) as port:
        sent = Client(port).ask("POST", "/api/restore?name=a.mp3", b"x")
    assert (sent.status, sent.body, sent.headers["content-length"]) == (200, b"restored", "8")
    assert "a.flac" in sent.headers["content-disposition"]


def test_a_server_that_shuts_down_is_503(client: Client, store: SongStore, worker: IdleWorker) -> None:
    worker.closing = True
    for path in ("/api/songs", "/api/restore"):
        assert client.ask("POST", path, b"x").status == 503
    assert is_empty(store)


def test_old_songs_are_removed(client: Client, store: SongStore) -> None:
    song = store.open(client.upload("song.mp3", b"x").json["id"])
    os.utime(song.path / "song.json", (0, 0))
    store.clean(60.0)
    assert song.exists  # it waits
    song.write_job("parts", "ready")
    store.dequeue(song.id)  # as its worker does then
    store.clean(60.0)
    assert is_empty(store)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "localhost.evil.example", "127.0.0.1.evil", ""]
)
def test_another_name_of_the_server_is_refused(client: Client, host: str) -> None:
    for path in ("/", "/api/songs", "/page.js"):
        assert client.ask("GET", path, headers={"Host": host}).status == 403


@pytest.mark.parametrize("host", ["localhost:1", "[::1]:8642", "127.0.0.1"])
def test_names_of_loopback_are_accepted(client: Client, host: str) -> None:
    assert client.ask("GET", "/api/songs", headers={"Host": host}).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://["},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_writes_of_other_pages_are_refused(client: Client, store: SongStore, headers: dict[str, str]) -> None:
    added = client.upload("song.mp3", b"x").json
    for method, path in (
        ("POST", "/api/songs"),
        ("POST", "/api/restore"),
        ("DELETE", f"/api/songs/{added['id']}"),
    ):
        assert client.ask(method, path, b"x", headers).status == 403
    assert store.open(added["id"]).exists
    own = {"Origin": f"http://127.0.0.1:{client.port}", "Sec-Fetch-Site": "same-origin"}
    assert client.ask("POST", "/api/songs", b"x", own).status == 201


def test_every_answer_has_the_policy(client: Client) -> None:
    answers = [
        client.ask("GET", "/"),
        client.ask("GET", "/nothing"),
        client.ask("POST", "/api/songs", bytes(400_000)),
        client.ask("GET", "/", headers={"Host": "evil.example"}),
    ]
    assert [answer.status for answer in answers] == [200, 404, 413, 403]
    for answer in answers:
        assert HEADERS.items() <= answer.headers.items()
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert "access-control-allow-origin" not in answer.headers
    page = answers[0].body.decode()
    assert not re.search(r"<script(?![^>]* src=)|<style|\bon\w+=|\bstyle=|https?://", page)


def test_beyond_loopback_a_token_is_needed(store: SongStore, worker: IdleWorker) -> None:
    settings = choose_access(WebSettings(), "0.0.0.0", TOKEN)  # noqa: S104 - not listened on
    with serve(create_application(store, worker, settings)) as port:
        stranger = Client(port)
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Cookie": "apollo-token=wrong"}):
            for path in ("/", "/page.js", "/api/songs", "/api/songs?token=wrong"):
                assert stranger.ask("GET", path, headers=headers).status == 401
        assert stranger.ask("POST", "/api/songs", b"x").status == 401
        assert stranger.cookies == {}
        first = stranger.ask("GET", f"/?token={TOKEN}&a=b")
        assert (first.status, first.headers["location"]) == (303, "/?a=b")
        assert "HttpOnly; SameSite=Lax" in first.headers["set-cookie"]
        assert stranger.ask("GET", "/", headers={"Host": "any.example"}).status == 200
        assert stranger.ask("POST", "/api/songs", b"x").status == 201
        script = Client(port)
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        assert script.ask("POST", "/api/songs", b"x", bearer).status == 201
        assert script.ask("GET", f"//evil.example/?token={TOKEN}").headers["location"].startswith("/evil")
        for path in ("/%09/evil.example/", "/%0A/evil.example/", "/%5C%09evil.example"):
            location = script.ask("GET", f"{path}?token={TOKEN}").headers["location"]
            assert re.fullmatch(r"/(%0[9A]|evil)[%\w./]*", location) and not location.startswith("//")
    assert TOKEN not in repr(settings)
    generated = [choose_access(WebSettings(), "0.0.0.0", None).token for _ in range(2)]  # noqa: S104
    assert generated[0] != generated[1] and all(len(str(one)) >= 32 for one in generated)
    with pytest.raises(ValueError, match="at least 16"):
        choose_access(WebSettings(), "::", "short")


def test_a_proxy_hands_on_its_name_as_documented(store: SongStore, worker: IdleWorker) -> None:
    documented = (Path(__file__).parents[2] / "docs" / "web.md").read_text()
    assert "proxy_set_header Host $host;" in documented
    (host,) = re.findall(r"apollo web --host (\S+) --token-file", documented)
    public = {"Host": "music.example.org", "Origin": "https://music.example.org"}
    public |= {"Sec-Fetch-Site": "same-origin", "Authorization": f"Bearer {TOKEN}"}
    for address, status in ((host, 201), ("127.0.0.1", 403)):
        settings = choose_access(LIMITS, address, TOKEN)
        with serve(create_application(store, worker, settings)) as port:
            assert Client(port).ask("POST", "/api/songs", b"x", public).status == status
            other = public | {"Origin": "https://evil.example"}
            assert Client(port).ask("POST", "/api/songs", b"x", other).status == 403


@pytest.fixture(scope="module")
def decoding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Client, SongStore]]:
    """A server that inspects and restores."""
    store = SongStore(tmp_path_factory.mktemp("decoding"))
    settings = WebSettings(max_seconds=20.0)
    worker = LocalWorker(store, ModelOptions(), settings)
    with serve(create_application(store, worker, settings)) as port:
        yield Client(port), store
    worker.close()


def _flac(samples: Any, declared: int | None = None) -> bytes:
    """Return a FLAC file that declares another number of samples."""
    stream = io.BytesIO()
    soundfile.write(stream, samples, 44_100, format="FLAC", subtype="PCM_16")
    content = bytearray(stream.getvalue())
    if declared is not None:
        content[21] = content[21] & 0xF0 | declared >> 32
        content[22:26] = (declared & 0xFFFF_FFFF).to_bytes(4, "big")
    return bytes(content)


SECRET = "a secret of this machine"  # noqa: S105 - of nothing
REFERENCES = {
    "playlist.m3u": "#EXTM3U\n#EXTINF:9,\n{file}\n",
    "hls.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{file}\n#EXT-X-ENDLIST\n",
    "remote.mp3": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:{port}/a.mp3\n#EXT-X-ENDLIST\n",
    "concat.wav": "ffconcat version 1.0\nfile '{file}'\n",
    "stream.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio {port} RTP/AVP 0\n",
    "dash.mp3": "<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011'>"
    "<BaseURL>{file}</BaseURL></MPD>",
}


@pytest.mark.parametrize("name", REFERENCES)
def test_a_file_that_refers_to_others_is_no_audio(
    decoding: tuple[Client, SongStore], tmp_path: Path, name: str
) -> None:
    client, store = decoding
    song = write(tmp_path / "private.wav", music(1, 1.0))
    with socket.create_server(("127.0.0.1", 0)) as remote:
        remote.settimeout(0.05)
        text = REFERENCES[name].format(file=song, port=remote.getsockname()[1])
        answer = client.upload(name, text.encode())
        assert answer.status == 415
        assert str(tmp_path) not in answer.error
        with pytest.raises(TimeoutError):
            remote.accept()
    assert is_empty(store)


@pytest.mark.parametrize(
    "content, status, reason",
    [
        (b"", 422, "the file is empty"),
        (b"no audio at all", 415, "no audio"),
        (
            b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\1\0\2\0\x44\xac\0\0\x10\xb1\2\0\4\0\x10\0data\0\0\0\0",
            422,
            "no samples",
        ),
        (b"PK\3\4" + bytes(200), 415, "no audio"),
        (b"\x89PNG\r\n\x1a\n" + bytes(200), 415, "no audio"),
        (_flac(np.zeros((21 * 44_100, 1))), 422, "21 s long, longer than the limit of 20 s"),
        (_flac(np.zeros((441, 1)), 44_100 * 3600 * 5), 422, "longer than the limit"),
    ],
)
def test_what_is_no_song_is_refused_with_the_reason(
    decoding: tuple[Client, SongStore], content: bytes, status: int, reason: str
) -> None:
    client, store = decoding
    answer = client.upload("song.mp3", content)
    assert (answer.status, reason in answer.error) == (status, True), answer.body
    assert "/" not in answer.error
    assert is_empty(store)


def test_a_song_longer_than_it_says_is_given_up(decoding: tuple[Client, SongStore]) -> None:
    client, _ = decoding
    added = client.upload("song.flac", _flac(np.zeros((40 * 44_100, 1)), 0))
    assert added.status == 201, added.body
    assert client.finish(added.json["id"])["listening"]["reason"] == "longer than 20 s"


_CHILDREN = "/proc/{0}/task/{0}/children"


@pytest.mark.skipif(sys.platform != "linux", reason="children are read from /proc")
def test_the_command_leaves_no_files_and_no_processes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "apollo", "web", "--port", "0", "--folder", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:(\d+)/$", server.stdout.readline().strip())
        assert found, server.stderr and server.stderr.read()
        client = Client(int(found[1]))
        added = client.upload("a.flac", _flac(np.tile(music(2, 5.0, channels=1), (8, 1))))
        assert added.status == 201
        client.until(added.json["id"], lambda one: one["listening"]["status"] == "working")
        children = Path(_CHILDREN.format(server.pid)).read_text().split()
        assert len(children) >= 2
        assert len(list(tmp_path.iterdir())) == 1
        server.send_signal(signal.SIGTERM)
        _, errors = server.communicate(timeout=30)
    assert (server.returncode, errors) == (0, "")
    assert not list(tmp_path.iterdir())
    end = time.monotonic() + 10  # the last ones see that the server is gone
    while left := [child for child in children if Path("/proc", child).exists()]:
        assert time.monotonic() < end, left
        time.sleep(0.02)


def test_settings_are_shown_and_say_nothing_of_the_machine(client: Client, store: SongStore) -> None:
    shown = client.ask("GET", "/api/settings")
    assert shown.json["max_bytes"] == LIMITS.max_bytes
    added = client.upload("song.mp3", b"x")
    for answer in (shown, added, client.ask("GET", "/api/songs")):
        assert str(store.root) not in json.dumps(answer.json)
