#!/usr/bin/env bash
# Guess: an online backup of a database in WAL mode copies one snapshot, as a read transaction would, and ends however much is written.
# Behaviour (SQLite 3.53.0, by apsw 3.53.0.0): whenever another connection has committed, the next step starts from the first page again.
# With one small write between steps the pages that remain never become fewer. `vacuum into` reads one snapshot and ends.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" --quiet --disable-pip-version-check install apsw==3.53.0.0
"$dir/venv/bin/python" - "$dir" <<'PYTHON'
import sys
import apsw

folder = sys.argv[1]
print("SQLite", apsw.sqlite_lib_version())
writer = apsw.Connection(f"{folder}/events.db")
writer.execute("pragma journal_mode = wal")
writer.execute("create table events (k integer primary key, v)")
with writer:
    writer.executemany("insert into events (v) values (?)", [("x" * 1000,)] * 2000)

def steps(writes, most):
    """Backs up 100 pages at a time; returns the steps made and the pages that remain."""
    target, source = apsw.Connection(":memory:"), apsw.Connection(f"{folder}/events.db")
    with target.backup("main", source, "main") as backup:
        for step in range(1, most + 1):
            backup.step(100)
            if backup.done:
                return step, 0
            if writes:
                writer.execute("update events set v = ? where k = 1", (f"{step:04}",))
        return most, backup.remaining

quiet = steps(writes=False, most=1000)
busy = steps(writes=True, most=1000)
print(f"nothing written: done after {quiet[0]} steps")
print(f"one row written between steps: after {busy[0]} steps {busy[1]} pages remain")
writer.execute("vacuum into ?", (f"{folder}/copy.db",))
rows = apsw.Connection(f"{folder}/copy.db").execute("select count(*) from events").fetchone()[0]
print(f"vacuum into: a copy with {rows} rows")
if quiet[1] != 0 or quiet[0] > 20 or busy[0] != 1000 or busy[1] == 0 or rows != 2000:
    sys.exit("the behaviour has changed")
PYTHON
