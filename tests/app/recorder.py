"""Runs `clipalign` with every connection to another host refused and written down.

python -m tests.app.recorder RECORD app photos.index --port 0
"""

import sys
from pathlib import Path

HOME = ("127.0.0.1", "::1", "localhost", "0.0.0.0", "::", "", None)


def watch(record: Path) -> None:
    """Refuses and records connections, and look-ups of names, that leave this machine."""

    def hook(event, arguments):
        if event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple):
            host = arguments[1][0]
        elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
            host = arguments[0]
        else:
            return
        host = host.decode() if isinstance(host, bytes) else host
        if host not in HOME:
            with open(record, "a", encoding="utf-8") as file:
                file.write(f"{event} {host}\n")
            raise OSError(f"{event} {host} is refused in this test")

    record.touch()
    sys.addaudithook(hook)


if __name__ == "__main__":
    watch(Path(sys.argv[1]))
    from hf_clipalign.cli import main

    sys.argv = ["clipalign", *sys.argv[2:]]
    main()
