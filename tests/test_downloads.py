"""Downloads from a server on this machine that stalls, breaks off, ignores ranges or sends other things."""

import hashlib
import http.server
import random
import re
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from helpers.plumbing import downloads, image_sources
from helpers.plumbing.downloads import download, obtain
from helpers.plumbing.errors import CourseError

CONTENT = random.Random(0).randbytes(300_000)
MD5 = hashlib.md5(CONTENT).hexdigest()
HALF = len(CONTENT) // 2


class Handler(http.server.BaseHTTPRequestHandler):
    """The path's first word says what goes wrong."""

    def do_GET(self):
        fault = self.path.split("/")[1]
        asked = re.match(r"bytes=(\d+)-", self.headers.get("Range", "")) if fault != "norange" else None
        start = int(asked[1]) if asked else 0
        self.server.asked.append((fault, self.headers.get("Range")))
        if fault == "busy":
            self.send_error(503)
        elif start >= len(CONTENT):
            self.send_error(416)
        else:
            content = {"wrong": bytes(9), "page": b"<html>Log in"}.get(fault, CONTENT)[start:]
            self.send_response(206 if asked else 200)
            if asked:
                begin = 0 if fault == "misplaced" else start
                self.send_header("Content-Range", f"bytes {begin}-{len(CONTENT) - 1}/{len(CONTENT)}")
            self.send_header("Content-Type", "text/html" if fault == "page" else "application/gzip")
            if fault != "unmeasured":
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.write(fault, content)

    def write(self, fault: str, content: bytes):
        if fault in ("breaks", "norange") and not self.server.healed:
            self.wfile.write(content[: (len(content) + 1) // 2])
        elif fault == "stalls":
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            self.server.ended.wait(60)
        elif fault == "slow":
            for at in range(0, len(content), 6000):
                self.wfile.write(content[at : at + 6000])
                time.sleep(0.01)
        else:
            self.wfile.write(content)

    def log_message(self, *arguments):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads, healed = True, False

    def handle_error(self, *arguments):  # the other side has hung up, as some tests want it
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(downloads, "STALL", 0.5)
    monkeypatch.setattr(downloads, "PAUSE", 0.01)
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server(("127.0.0.1", 0), Handler) as server:
        server.asked, server.ended = [], threading.Event()
        server.url = lambda fault: f"http://127.0.0.1:{server.server_port}/{fault}/file"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.ended.set()
        server.shutdown()


def get(server, path: Path, *faults: str) -> list[tuple[str, str | None]]:
    """Download from these addresses, check the file, and return what the server was asked for."""
    download(path, [server.url(fault) for fault in faults], MD5)
    assert path.read_bytes() == CONTENT
    assert not path.with_name(f"{path.name}.part").exists()
    return server.asked


@pytest.mark.parametrize("fault", ["whole", "unmeasured"])
def test_file_arrives(server, tmp_path, fault):
    assert get(server, tmp_path / "new" / "file", fault)[0] == (fault, None)


@pytest.mark.parametrize("fault", ["breaks", "stalls"])
def test_what_broke_off_or_stalled_is_continued_by_the_next_host(server, tmp_path, fault):
    started = time.monotonic()
    assert get(server, tmp_path / "file", fault, "whole") == [(fault, None), ("whole", f"bytes={HALF}-")]
    assert time.monotonic() - started < 30  # half of what it is silent for


def test_one_host_that_breaks_off_again_and_again_is_asked_as_long_as_it_gives_more(server, tmp_path):
    asked = get(server, tmp_path / "file", "breaks")  # half of the rest each time
    assert 15 < len(asked) < 25
    starts = [int(text[6:-1]) for _, text in asked[1:]]
    assert starts == sorted(set(starts)) and starts[:2] == [HALF, HALF + HALF // 2]


def test_download_is_continued_by_the_next_run(server, tmp_path, capsys):
    with pytest.raises(CourseError, match=r"broke off after 150,000 of 300,000 bytes.*goes on where it broke off"):
        obtain(tmp_path / "file", [server.url("norange")], MD5)
    assert (tmp_path / "file.part").read_bytes() == CONTENT[:HALF]
    assert "broke off" in capsys.readouterr().err
    server.asked.clear()
    assert get(server, tmp_path / "file", "whole") == [("whole", f"bytes={HALF}-")]


@pytest.mark.parametrize("left", [CONTENT[:1000], b"x" * 1000, CONTENT + b"more", b""])
def test_what_is_left_of_an_earlier_try_is_used_only_if_it_fits(server, tmp_path, left):
    (tmp_path / "file.part").write_bytes(left)
    get(server, tmp_path / "file", "whole", "unmeasured")


def test_complete_file_of_a_run_that_was_killed_before_it_was_renamed_is_not_fetched_again(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT)
    assert get(server, tmp_path / "file", "whole") == []


def test_server_that_ignores_ranges_sends_all_from_the_start(server, tmp_path):
    server.healed = True
    (tmp_path / "file.part").write_bytes(CONTENT[:1000])
    assert get(server, tmp_path / "file", "norange") == [("norange", "bytes=1000-")]


@pytest.mark.parametrize("fault", ["busy", "page", "misplaced"])
def test_answers_that_are_not_the_file_leave_what_is_there(server, tmp_path, fault):
    (tmp_path / "file.part").write_bytes(CONTENT[:1000])
    assert get(server, tmp_path / "file", fault, "whole")[-1] == ("whole", "bytes=1000-")


def test_other_content_is_fetched_once_and_never_kept(server, tmp_path):
    with pytest.raises(CourseError, match="another file, as its MD5 tells"):
        obtain(tmp_path / "file", [server.url("wrong")], MD5)
    assert server.asked == [("wrong", None)]
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == []
    assert get(server, tmp_path / "file", "wrong", "whole")[-1] == ("whole", None)


def test_slow_host_is_left_for_a_faster_one_and_kept_if_there_is_none(server, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "SAMPLE", 0.2)  # of the half second that the slow one takes
    monkeypatch.setattr(downloads, "SLOWEST", 1_000_000)
    asked = get(server, tmp_path / "a", "slow", "whole")
    assert [fault for fault, _ in asked] == ["slow", "whole"] and asked[1][1]
    server.asked.clear()
    assert [fault for fault, _ in get(server, tmp_path / "b", "slow", "busy")] == ["slow", "busy", "slow"]


def test_message_names_each_host_every_address_and_the_place(server, tmp_path):
    urls = [server.url("busy"), "https://nowhere.invalid/file", "not an address"]
    with pytest.raises(CourseError) as error:
        obtain(tmp_path / "file", urls, MD5)
    message = str(error.value)
    assert "503" in message and "nowhere.invalid: " in message and MD5 in message
    assert all(url in message for url in urls) and f"put it at {tmp_path / 'file'}" in message


def test_two_at_once_download_once(server, tmp_path):
    threads = [threading.Thread(target=download, args=(tmp_path / "f", [server.url("slow")], MD5)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "f").read_bytes() == CONTENT and len(server.asked) == 1


def test_redirection_to_plain_http_is_refused():
    request = urllib.request.Request("https://example.org/file")
    follow = downloads._KeepTLS().redirect_request
    with pytest.raises(OSError, match=r"redirects to http://example\.org/file, without TLS"):
        follow(request, None, 302, "Found", {}, "http://example.org/file")
    assert follow(request, None, 302, "Found", {}, "https://example.org/b").full_url == "https://example.org/b"


def test_every_built_in_address_has_tls_and_cifar10_has_several_hosts():
    addresses = [host.format("f") for hosts in image_sources.HOSTS.values() for host in hosts]
    assert all(address.startswith("https://") for address in addresses)
    assert len({address.split("/")[2] for address in addresses if "cifar" in address or "10089977" in address}) >= 3
