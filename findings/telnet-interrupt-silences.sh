#!/usr/bin/env bash
# Guess: Ctrl-C in a telnet client sends an interrupt that a line-based server may ignore, as it may ignore any telnet command.
# Behaviour (GNU inetutils telnet 2.4, Debian 12's inetutils-telnet): the client sends IAC IP, IAC DO TIMING-MARK and from then on throws
# away whatever the server sends, until IAC WILL (or WONT) TIMING-MARK arrives. A server that never answers has a client that looks dead.
# Needs Debian 12 (apt-get download).
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
apt-get -o APT::Sandbox::User=root download --quiet inetutils-telnet=2:2.4-2+deb12u3 >/dev/null
dpkg-deb -x inetutils-telnet_*.deb package
python3 - "$dir/package/usr/bin/inetutils-telnet" <<'PYTHON'
import os, pty, select, socket, subprocess, sys, time

telnet = sys.argv[1]
print(subprocess.run([telnet, "--version"], capture_output=True, text=True).stdout.splitlines()[0])
IAC, WILL, DO, IP, TIMING_MARK = 255, 251, 253, 244, 6

def shown(screen, seconds=1.5):
    """What the client prints within that time."""
    text, end = b"", time.monotonic() + seconds
    while time.monotonic() < end:
        if select.select([screen], [], [], 0.1)[0]:
            try:
                text += os.read(screen, 4096)
            except OSError:
                break
    return text.decode(errors="replace")

def session(answers):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        pid, screen = pty.fork()
        if pid == 0:
            os.execv(telnet, ["telnet", "127.0.0.1", str(listener.getsockname()[1])])
        server, _ = listener.accept()
    server.sendall(b"before\r\n")
    before = shown(screen)
    os.write(screen, b"\x03")
    time.sleep(0.5)
    server.settimeout(5)
    received = server.recv(64)
    if answers:
        server.sendall(bytes([IAC, WILL, TIMING_MARK]))
    server.sendall(b"after\r\n")
    after = shown(screen)
    server.close()
    os.close(screen)
    os.waitpid(pid, 0)
    asked = bytes([IAC, DO, TIMING_MARK]) in received and bytes([IAC, IP]) in received
    print(f"server {'answers' if answers else 'does not answer'}: client sent {received.hex(' ')}; shows \"after\": {'after' in after}")
    return "before" in before, asked, "after" in after

if [session(False), session(True)] != [(True, True, False), (True, True, True)]:
    sys.exit("the behaviour has changed")
PYTHON
