"""Spares the reader connections that stall and break: a download goes on where it broke off, from several hosts.

torchvision's and torch.hub's own downloads resume nothing and wait forever; the former also falls back to plain HTTP.
"""

import errno
import itertools
import sys
import time
import urllib.request
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from helpers.plumbing.errors import CourseError
from helpers.plumbing.files import one_at_a_time
from helpers.plumbing.progress import progress_bar

STALL = 30.0  # seconds without a byte that end a try; the whole may take as long as it likes
SLOWEST, SAMPLE = 200_000, 20.0  # bytes a second over so many seconds: below it, the next host is asked first
PAUSE = 3.0  # seconds between two rounds over all hosts


def obtain(path: Path, addresses: list[str], md5: str) -> None:
    """See to it that the file lies at `path`, whole. Raises CourseError."""
    from torchvision.datasets.utils import check_integrity

    by_hand = f"download it in a browser from {' or '.join(addresses)} (MD5 {md5}), put it at {path}"
    try:
        if not path.exists():
            download(path, addresses, md5)
        intact = check_integrity(str(path), md5)
    except OSError as error:
        raise CourseError(
            f"{path.name} could not be downloaded ({error}): run this again, which goes on where it broke off; or "
            f"{by_hand} and run this again; or use --data synthetic, or a folder of images."
        ) from error
    if not intact:
        raise CourseError(
            f"{path} is truncated or damaged (its MD5 is wrong): delete it, {by_hand}, or run this again."
        )


class _KeepTLS(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, request, file, code, message, headers, address):
        if request.type == "https" and not address.startswith("https:"):
            raise OSError(f"it redirects to {address}, without TLS")
        return super().redirect_request(request, file, code, message, headers, address)


def download(path: Path, addresses: list[str], md5: str) -> None:
    """Download to `path` from each address in turn, as long as there is progress; each goes on where another broke off.

    Raises OSError with each host's problem.
    """
    from torchvision.datasets.utils import check_integrity

    path.parent.mkdir(parents=True, exist_ok=True)
    part, problems = path.with_name(f"{path.name}.part"), {}
    with one_at_a_time(path):
        for attempt in itertools.count():
            before = _size(part)
            for address in [address for address in addresses if "MD5" not in problems.get(address, "")]:
                if path.exists():
                    return
                try:
                    if not check_integrity(str(part), md5):  # it is whole if a run was killed just then
                        _fetch(address, part, hurry=not attempt and len(addresses) > 1)
                    if check_integrity(str(part), md5):
                        part.replace(path)
                        return
                    part.unlink()
                    raise OSError("what came is another file, as its MD5 tells")
                except (OSError, HTTPException, ValueError) as error:  # ValueError: it is no address
                    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
                        raise  # no host is to blame
                    reason = error.reason if type(error) is URLError else error
                    problem = f"{urlsplit(address).netloc}: {reason or repr(error)}"[:200]
                    if problem != problems.get(address):
                        print(f"{path.name} from {problem}", file=sys.stderr)
                    problems[address] = problem
            if attempt and _size(part) <= before:
                raise OSError("; ".join(problems.values()))
            time.sleep(PAUSE)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _fetch(address: str, part: Path, hurry: bool) -> None:
    """Append to what is there, or start anew if the server cannot. Raises OSError, HTTPException or ValueError."""
    start = _size(part)
    headers = {"User-Agent": "Mozilla/5.0"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        request = urllib.request.Request(address, headers=headers)
        response = urllib.request.build_opener(_KeepTLS).open(request, timeout=STALL)
    except HTTPError as error:
        if error.code == 416:  # more is there than the file has
            part.unlink()
        raise
    with response:
        resumed = response.status == 206
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            raise OSError("it sends another part than it was asked for")
        if response.headers.get_content_type() == "text/html":
            raise OSError("it answers with a web page")
        if not resumed:
            start = 0
            part.unlink(missing_ok=True)  # what lies there may be a link to elsewhere
        length, got, began = int(response.headers.get("Content-Length") or 0), 0, time.monotonic()
        bar = progress_bar(None, f"Downloading {part.stem}", start + length >> 20, " MB")
        with bar, part.open("ab") as file:
            while block := response.read1(2**18):
                file.write(block)
                got += len(block)
                bar.update((start + got >> 20) - bar.n)
                seconds = time.monotonic() - began
                if hurry and seconds > SAMPLE and got < seconds * SLOWEST:
                    raise OSError(f"it sends only {got / seconds / 1000:.0f} kB a second")
        if got < length:
            raise OSError(f"it broke off after {start + got:,} of {start + length:,} bytes")
