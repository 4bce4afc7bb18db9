#!/usr/bin/env bash
# Runs the GPU lane from this bundle: no toolchain needed, only the NVIDIA driver (and Python for
# the wheel's stage). Every stage leaves results/STAGE.json; one that succeeded is skipped later,
# so an interrupted run is resumed by running this again. At the end results.json holds them all,
# with GPU, driver, CUDA and commit. `run.sh --afresh` forgets earlier stages; so does a bundle of
# another commit.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
results=${RESULTS:-$here/results}
[ "${1:-}" = --afresh ] && rm -rf "$results"
# Stages of another commit's bundle, unpacked over here, are not this one's.
cmp -s "$here/commit.txt" "$results/commit.txt" || rm -rf "$results"
mkdir -p "$results"
cp "$here/commit.txt" "$results/commit.txt"

# A JSON string of stdin.
quote() {
    sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' -e 's/\t/\\t/g' | tr -d '\r\000-\010\013\014\016-\037' |
        awk 'BEGIN { printf "\"" } NR > 1 { printf "\\n" } { printf "%s", $0 } END { printf "\"" }'
}

# stage NAME SECONDS COMMAND...: exit code, seconds and output; `json` is the output when it is JSON.
stage() {
    local name=$1 limit=$2 begin code log form
    shift 2
    if grep -q '^{"exit_code": 0,' "$results/$name.json" 2>/dev/null; then
        echo "== $name: already done"
        return
    fi
    echo "== $name"
    log=$results/$name.log
    begin=$(date +%s)
    timeout "$limit" "$@" >"$log.out" 2>"$log.err"
    code=$?
    form=text
    [ "$(head -c 1 "$log.out")" = "{" ] && form=json
    {
        printf '{"exit_code": %d, "seconds": %d, "stderr": ' "$code" $(($(date +%s) - begin))
        tail -c 20000 "$log.err" | quote
        printf ', "%s": ' "$form"
        if [ $form = json ]; then cat "$log.out"; else tail -c 60000 "$log.out" | quote; fi
        printf '}\n'
    } >"$results/$name.part"
    mv "$results/$name.part" "$results/$name.json"
    echo "   exit code $code"
}

machine() {
    local query=name,uuid,driver_version,memory.total,compute_cap
    nvidia-smi --query-gpu=$query --format=csv,noheader || return 1
    nvidia-smi | grep -o 'CUDA Version: [0-9.]*'
    uname -r
}

wheel() {
    local place
    place=$(mktemp -d) || return 1
    python3 -m zipfile -e "$here"/wheel/*.whl "$place" || return 1
    chmod +x "$place"/memvelope/_libs/memvelope 2>/dev/null
    PYTHONPATH=$place python3 -c 'import json, memvelope; print(json.dumps(memvelope.doctor(), default=str))'
    local code=$?
    rm -rf "$place"
    return $code
}

demo() {
    local name=$1
    shift
    "$here/bin/memvelope" demo --device 0 --json --out "$results/$name" "$@"
}

stage machine 60 bash -c "$(declare -f machine); machine"
stage doctor 60 "$here/bin/memvelope" doctor --json
stage conformance 300 env MEMVELOPE_GPU=require "$here/bin/conformance" --test-threads=1
stage demo 300 bash -c "here='$here' results='$results'; $(declare -f demo); demo demo"
stage demo-tight 300 bash -c "here='$here' results='$results'; $(declare -f demo)
    demo demo-tight --vram 24GiB --speed 4"
stage demo-no-gate 300 bash -c "here='$here' results='$results'; $(declare -f demo)
    demo demo-no-gate --vram 24GiB --speed 4 --no-gate"
for bench in "$here"/bin/bench-*; do
    [ -x "$bench" ] && stage "$(basename "$bench")" 300 "$bench"
done
if command -v python3 >/dev/null; then
    stage wheel 60 bash -c "here='$here'; $(declare -f wheel); wheel"
fi

# What the results were measured on: name, UUID, driver, memory, compute capability of every GPU;
# null where nvidia-smi told nothing.
field() {
    if [ -n "$1" ]; then printf '%s' "$1" | quote; else printf null; fi
}
gpus=$(grep -v -e '^CUDA Version' -e '^[0-9][0-9.]*-' "$results/machine.log.out" 2>/dev/null)
cuda=$(sed -n 's/^CUDA Version: //p' "$results/machine.log.out" 2>/dev/null)
driver=$(printf '%s\n' "$gpus" | head -n 1 | cut -d, -f3 | tr -d ' ')

# One file, written whole or not at all.
{
    printf '{\n"commit": "%s"' "$(cat "$here/commit.txt")"
    printf ',\n"gpu": %s,\n"driver": %s,\n"cuda": %s' \
        "$(field "$gpus")" "$(field "$driver")" "$(field "$cuda")"
    for part in "$results"/*.json; do
        [ "$(basename "$part")" = results.json ] && continue
        printf ',\n"%s": ' "$(basename "$part" .json)"
        cat "$part"
    done
    printf '}\n'
} >"$results/.results.part"
mv "$results/.results.part" "$results/results.json"
echo "== $results/results.json"
# Doctor's 1 says that something is not recorded, which its stage tells; everything else must be 0.
! grep -l '"exit_code": [1-9]' "$results"/*.json | grep -v -e /doctor.json -e /results.json
