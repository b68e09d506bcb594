"""Send prepared updates to a node, one after the other: `sender.py FOLDER PORT ADDRESS`, a process for `inbox`.

FOLDER holds `N.envelope` and `N.file`. It says "ready", waits for a line, sends with the requests of `sync.push.submit`
(a connection each), from a loopback address of its own since a node limits what comes from one, and prints the moments
of a monotonic clock at which each update began and was whole. Nothing but the standard library is imported: the
machine's cores are the node's.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import sys
import time
from pathlib import Path

LONGEST_S = 60.0
OFFSET = "Upload-Offset"


def ask(
    port: int, address: str, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[bytes, dict[str, str]]:
    """One request on a connection of its own. Raises RuntimeError unless it succeeds."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LONGEST_S, source_address=(address, 0))
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, {"Connection": "close", **named})
        answer = connection.getresponse()
        data = answer.read()
        if answer.status not in (200, 202, 204):
            raise RuntimeError(f"{method} {path}: {answer.status} {data[:300]!r}")
        return data, {name.lower(): value for name, value in answer.getheaders()}
    finally:
        connection.close()


def send(port: int, address: str, envelope: bytes, file: bytes) -> None:
    """One update with its file. Raises RuntimeError unless the node has all of it then."""
    digest, sha256 = hashlib.sha256(envelope).hexdigest(), hashlib.sha256(file).hexdigest()
    place = f"/v1/updates/{digest}"
    ask(port, address, "POST", "/v1/updates", envelope, Content_Type="application/vnd.dsse.envelope.v1+json")
    _, said = ask(port, address, "HEAD", f"{place}/files/{sha256}")
    at = said[OFFSET.lower()]
    _, said = ask(port, address, "PUT", f"{place}/files/{sha256}", file[int(at) :], Upload_Offset=at)
    standing = json.loads(ask(port, address, "GET", place)[0])
    if int(said[OFFSET.lower()]) != len(file) or standing["missing"]:
        raise RuntimeError(f"{place}: {standing}")


def main(folder: Path, port: int, address: str) -> None:
    """Send what lies in a folder."""
    updates = [(one.read_bytes(), one.with_suffix(".file").read_bytes()) for one in sorted(folder.glob("*.envelope"))]
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    moments = []
    for envelope, file in updates:
        began = time.monotonic()
        send(port, address, envelope, file)
        moments.append((began, time.monotonic()))
    sys.stdout.write(json.dumps(moments) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
