from __future__ import annotations

import functools
import hashlib
import http.server
import threading
import time

import pytest

from cmpolicy.datasets.d4rl_catalogue import D4RL_BASE_URL, D4RL_FILES, D4RLFile, recognised
from cmpolicy.datasets.d4rl_download import d4rl_on_disk, download_d4rl
from cmpolicy.download import CHUNK_BYTES, download, unreachable
from cmpolicy.errors import InputError

CONTENT = bytes(range(256)) * 4000  # a megabyte
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT under every path but /missing; can stop midway and can refuse ranges."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.stops_after: list[int] = []  # bytes, for the next answers
        self.resumes = True
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()

    def do_GET(self):
        if self.path.endswith("missing"):
            return self.send_error(404)
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        if asked and not self.server.resumes:
            start = 0
        if start >= len(CONTENT):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        body = CONTENT[start:]
        self.send_response(206 if asked and self.server.resumes else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.server.stops_after:
            body = body[: self.server.stops_after.pop(0)]
            self.close_connection = True
        self.wfile.write(body)
        return None


@pytest.fixture
def server(places):
    with Server() as running:
        serve = functools.partial(running.serve_forever, poll_interval=0.02)
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def left_beside(path):
    return sorted(p.name for p in path.parent.iterdir() if not p.name.endswith(".lock"))


def test_a_whole_file_arrives_under_its_name(server, tmp_path):
    path = download(f"{server.url}/a.hdf5", tmp_path / "new" / "a.hdf5", SHA256)
    assert path.read_bytes() == CONTENT
    assert left_beside(path) == ["a.hdf5"]
    assert server.asked == [None]


def test_a_server_that_dies_midway_is_asked_again_for_the_rest(server, tmp_path):
    server.stops_after = [CHUNK_BYTES, 2 * CHUNK_BYTES]
    path = download(f"{server.url}/a.hdf5", tmp_path / "a.hdf5", SHA256)
    assert path.read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={CHUNK_BYTES}-", f"bytes={3 * CHUNK_BYTES}-"]


def test_a_broken_transfer_leaves_its_part_and_the_next_call_resumes(server, tmp_path):
    server.stops_after = [CHUNK_BYTES, 0, 0]
    path = tmp_path / "a.hdf5"
    with pytest.raises(InputError, match=rf"broke off after {CHUNK_BYTES} bytes .*run again"):
        download(f"{server.url}/a.hdf5", path, SHA256)
    assert [name for name in left_beside(path) if name.startswith("a.")] == ["a.hdf5.part"]
    server.asked.clear()
    assert download(f"{server.url}/a.hdf5", path, SHA256).read_bytes() == CONTENT
    assert server.asked == [f"bytes={CHUNK_BYTES}-"]


def test_a_server_that_does_not_resume_begins_again(server, tmp_path):
    server.resumes = False
    (tmp_path / "a.hdf5.part").write_bytes(CONTENT[:1000])
    assert download(f"{server.url}/a.hdf5", tmp_path / "a.hdf5", SHA256).read_bytes() == CONTENT


@pytest.mark.parametrize("extra", [b"", b"too long"])
def test_a_part_that_is_whole_or_too_long(server, tmp_path, extra):
    (tmp_path / "a.hdf5.part").write_bytes(CONTENT + extra)
    assert download(f"{server.url}/a.hdf5", tmp_path / "a.hdf5", SHA256).read_bytes() == CONTENT


def test_a_wrong_hash_leaves_nothing(server, tmp_path):
    path = tmp_path / "a.hdf5"
    with pytest.raises(InputError, match="does not hash to 0000"):
        download(f"{server.url}/a.hdf5", path, "0" * 64)
    assert [name for name in left_beside(path) if name.startswith("a.")] == []


def test_an_answer_that_is_no_file(server, tmp_path):
    with pytest.raises(InputError, match="answered 404"):
        download(f"{server.url}/missing", tmp_path / "a.hdf5")


def test_nobody_there_is_noticed_within_five_seconds(tmp_path):
    begin = time.monotonic()
    with pytest.raises(InputError, match=r"127.0.0.1:9/a.hdf5 cannot be reached"):
        download("http://127.0.0.1:9/a.hdf5", tmp_path / "a.hdf5")
    assert time.monotonic() - begin < 5
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_never_answers_is_given_up():
    import socket

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        begin = time.monotonic()
        assert unreachable(f"http://127.0.0.1:{silent.getsockname()[1]}/", seconds=0.5)
        assert time.monotonic() - begin < 1.5


def test_a_server_that_drips_is_given_up():
    import socket

    def drip(listening):
        client, _ = listening.accept()
        with client:
            client.sendall(b"HTTP/1.1 200 OK\r\n")
            for _ in range(15):  # each line is in time, the answer is not
                time.sleep(0.1)
                try:
                    client.sendall(b"X: y\r\n")
                except OSError:
                    return

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=drip, args=(listening,), daemon=True)
        thread.start()
        begin = time.monotonic()
        assert unreachable(f"http://127.0.0.1:{listening.getsockname()[1]}/", seconds=0.5)
        assert time.monotonic() - begin < 1.5
        thread.join()


def test_a_mirror_replaces_the_base(server, places, monkeypatch):
    monkeypatch.setenv("D4RL_MIRROR", server.url + "/")
    path = download_d4rl("relocate-human-v1")  # no hash is known for it
    assert path == places[0] / "relocate-human-v1.hdf5"
    assert d4rl_on_disk("relocate-human-v1") == path
    with pytest.raises(InputError, match="does not hash to 5bdf"):
        download_d4rl("hopper-medium-v2", mirror=server.url)
    assert d4rl_on_disk("hopper-medium-v2") is None
    with pytest.raises(InputError, match="no D4RL dataset 'hopper-medium-v9', expected one of"):
        download_d4rl("hopper-medium-v9")


def test_the_catalogue_is_well_formed():
    assert D4RL_BASE_URL.startswith("http")
    assert len({file.path for file in D4RL_FILES.values()}) == len(D4RL_FILES)
    for file in D4RL_FILES.values():
        assert file.path.endswith(".hdf5")
        assert (file.bytes is None) == (file.sha256 is None)
        if file.sha256:
            assert len(bytes.fromhex(file.sha256)) == 32
            assert file.bytes > 1_000_000
    assert D4RL_FILES["hopper-medium-v2"].name == "hopper_medium-v2.hdf5"


def test_a_file_is_recognised_by_name_and_size(tmp_path, monkeypatch):
    monkeypatch.setitem(D4RL_FILES, "tiny-v0", D4RLFile("x/tiny_file-v0.hdf5", 3, "00"))
    for name in ("tiny_file-v0.hdf5", "tiny-v0.hdf5"):
        path = tmp_path / name
        path.write_bytes(b"abc")
        assert recognised(path) == "tiny-v0"
        path.write_bytes(b"abcd")
        assert recognised(path) is None
    assert recognised(tmp_path / "other.hdf5") is None
