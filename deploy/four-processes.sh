#!/usr/bin/env bash
# The shape of four processes on one machine: broker, tweet pipeline, change-stream publisher, subscriber; and the feed beside them.
#
#     deploy/four-processes.sh start mongodb://127.0.0.1:27017/rtp_sse_db?replicaSet=rs0 [DIR]
#     deploy/four-processes.sh status [DIR]
#     deploy/four-processes.sh stop [DIR]
#
# DIR (./four-processes) gets a folder for each process: its configuration, its data, its log, its pid. HERALD_BIN names the
# binary (target/release/herald of this repository, or the one in PATH). Ports: BROKER_PORT (8000), FEED_PORT (4000),
# CONSOLE_PORT (8080). RATE is the feed's events a second on each of two streams (20).
set -euo pipefail

usage() { sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2; }

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
action=${1:-}
[[ -n $action ]] && shift
case $action in
    start) mongodb=${1:?$(usage)}; dir=${2:-four-processes} ;;
    status | stop) dir=${1:-four-processes} ;;
    *) usage ;;
esac
broker_port=${BROKER_PORT:-8000} feed_port=${FEED_PORT:-4000} console_port=${CONSOLE_PORT:-8080} rate=${RATE:-20}
# In the order in which they stop: from the outside in.
processes=(subscriber pipeline change-stream feed broker)

herald=${HERALD_BIN:-$here/../target/release/herald}
[[ -x $herald ]] || herald=$(command -v herald || true)

# Whether the process in folder $1 is ours and runs.
runs() {
    local pid
    pid=$(cat "$dir/$1/pid" 2>/dev/null) && [[ -r /proc/$pid/cwd ]] && [[ $(readlink "/proc/$pid/cwd") == "$(cd "$dir/$1" && pwd -P)" ]]
}

# Starts `herald ARGUMENTS…` in folder $1.
run() {
    local name=$1
    shift
    (
        cd "$dir/$name"
        # Not this shell's: a variable that is no key would be an error.
        unset HERALD_BIN
        nohup "$herald" "$@" >>out 2>>log </dev/null &
        echo $! >pid
    )
}

# Waits for a line with $2 in the log of $1.
await() {
    for _ in $(seq 600); do
        grep -q "$2" "$dir/$1/log" && return
        runs "$1" || break
        sleep 0.1
    done
    echo "$1 does not come up; its log is $dir/$1/log:" >&2
    tail -n 5 "$dir/$1/log" >&2
    exit 1
}

start() {
    [[ -x $herald ]] || { echo "no herald: build it (cargo build --release --features full), or set HERALD_BIN" >&2; exit 1; }
    herald=$(realpath "$herald")
    mkdir -p "$dir"
    for name in "${processes[@]}"; do
        if runs "$name"; then
            echo "$name runs already: $0 stop $dir" >&2
            exit 1
        fi
        mkdir -p "$dir/$name"
        : >"$dir/$name/log"
    done
    # Made once, and kept beside the data.
    if [[ ! -e $dir/tokens ]]; then
        (
            umask 077
            for who in PUBLISHER READER ADMIN; do
                echo "export BROKER_${who}_TOKEN=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')"
            done >"$dir/tokens"
        )
    fi
    # shellcheck source=/dev/null
    source "$dir/tokens"
    for name in broker pipeline change-stream; do
        sed -e "s#mongodb://mongo:27017/rtp_sse_db?replicaSet=rs0#${mongodb//&/\\&}#" \
            -e "s#tcp://broker:8000#tcp://127.0.0.1:$broker_port#" \
            -e "s#http://feed:4000#http://127.0.0.1:$feed_port#g" \
            -e "s#0\.0\.0\.0:8000#127.0.0.1:$broker_port#" \
            -e "s#0\.0\.0\.0:8080#127.0.0.1:$console_port#" \
            -e 's#log_format = "json"#log_format = "text"#' \
            "$here/$name.toml" >"$dir/$name/herald.toml"
    done
    run feed feed --listen "127.0.0.1:$feed_port" --rate "$rate"
    await feed 'listening'
    run broker serve
    await broker 'herald is up'
    # The subscription is there before anything is published.
    HERALD_TOKEN=$BROKER_READER_TOKEN run subscriber sub tweets users --name reader --server "127.0.0.1:$broker_port"
    for _ in $(seq 100); do
        HERALD_TOKEN=$BROKER_ADMIN_TOKEN "$herald" topics --server "127.0.0.1:$broker_port" 2>/dev/null | grep -q '^users ' && break
        sleep 0.1
    done
    run change-stream serve
    await change-stream 'herald is up'
    run pipeline serve
    await pipeline 'herald is up'
    status
    echo
    echo "what the subscriber gets:  tail -f $dir/subscriber/out"
    echo "statistics:                source $dir/tokens; HERALD_TOKEN=\$BROKER_ADMIN_TOKEN herald stats --server 127.0.0.1:$broker_port"
    echo "the pipeline's console:    telnet 127.0.0.1 $console_port"
}

status() {
    local all=0
    for name in "${processes[@]}"; do
        if runs "$name"; then
            printf '%-14s runs, pid %s\n' "$name" "$(cat "$dir/$name/pid")"
        else
            printf '%-14s does not run\n' "$name"
            all=1
        fi
    done
    return $all
}

stop() {
    local name pid failed=0
    for name in "${processes[@]}"; do
        runs "$name" || continue
        pid=$(cat "$dir/$name/pid")
        kill -TERM "$pid"
        for _ in $(seq 300); do
            runs "$name" || break
            sleep 0.1
        done
        if runs "$name"; then
            echo "$name does not stop; its log is $dir/$name/log" >&2
            failed=1
        else
            rm -f "$dir/$name/pid"
            echo "$name has stopped"
        fi
    done
    return $failed
}

"$action"
