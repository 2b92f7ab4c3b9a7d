#!/usr/bin/env bash
# Guess: a checkpoint that has to wait for a reader waits by itself; in WAL mode readers never stop writers.
# Behaviour (SQLite 3.53.0, by apsw 3.53.0.0): `wal_checkpoint(TRUNCATE)` and `(FULL)` take the write lock first and hold it while they
# wait for readers, for the whole busy time-out of the checkpointing connection. One slow reader then stops every writer that long,
# and the checkpoint still reports that it was busy. `(PASSIVE)` returns at once and stops no writer.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" --quiet --disable-pip-version-check install apsw==3.53.0.0
"$dir/venv/bin/python" - "$dir/events.db" <<'PYTHON'
import sys, threading, time
import apsw

path = sys.argv[1]
print("SQLite", apsw.sqlite_lib_version())
writer = apsw.Connection(path)
writer.execute("pragma journal_mode = wal; pragma wal_autocheckpoint = 0")
writer.execute("create table events (k integer primary key, v)")
with writer:
    writer.executemany("insert into events (v) values (?)", [("x" * 1000,)] * 1000)
reader = apsw.Connection(path)
rows = reader.execute("select k from events")
next(rows)  # a reader that is in no hurry
writer.execute("insert into events (v) values (1)")
checkpointer = apsw.Connection(path)
checkpointer.set_busy_timeout(3000)
writer.set_busy_timeout(0)

found = {}
for mode in ("passive", "full", "truncate"):
    result = {}

    def checkpoint():
        begun = time.monotonic()
        busy, _, _ = checkpointer.execute(f"pragma wal_checkpoint({mode})").fetchone()
        result["busy"], result["seconds"] = busy, time.monotonic() - begun

    thread = threading.Thread(target=checkpoint)
    thread.start()
    time.sleep(0.7)
    try:
        writer.execute("insert into events (v) values (1)")
        outcome = "succeeds"
    except apsw.BusyError as error:
        outcome = f"fails ({error})"
    thread.join()
    found[mode] = (outcome.split()[0], result["busy"])
    print(f"{mode}: a write during it {outcome}; it took {result['seconds']:.1f} s, busy = {result['busy']}")
if found != {"passive": ("succeeds", 0), "full": ("fails", 1), "truncate": ("fails", 1)}:
    sys.exit("the behaviour has changed")
PYTHON
