#!/bin/sh
# Measures what README.md says of the engine and the servers, on a machine with nothing else to do:
#
#     sh benchmarks/all.sh MACHINE
#
# It takes some 35 minutes on two cores, and writes results/*-MACHINE.json and .svg; tables.py makes
# README.md's tables of them. The peers are to be installed first, as README.md says.
set -eu
cd "$(dirname "$0")/.."
results=benchmarks/results
run() { uv run --extra export --group bench python "$@"; }

# What takes turns within a run, some 25 minutes in all.
run benchmarks/bench_engine.py --rounds 3 --seconds 1 --save "$results/engine-$1.json"
run benchmarks/bench_http.py --bundle build/models/int8 --bundle build/models/fp32 \
    --peers build/checkpoint --loads single mixed batches \
    --rounds 1 --seconds 8 --save "$results/http-$1.json"
run benchmarks/bench_http.py --bundle build/models/int8 \
    --peers build/checkpoint --only "llama.cpp bf16" "infinity bf16" --loads mixed open bulk \
    --rounds 1 --seconds 6 --save "$results/http-arriving-$1.json"
run benchmarks/bench_http.py --bundle build/models/int8 --loads single batches \
    --rounds 6 --seconds 3 --save "$results/http-overhead-$1.json"

run benchmarks/bench_floor.py build/models/int8 --rounds 4 --save "$results/floor-$1.json"
run benchmarks/profile_engine.py build/models/int8 --save "$results/profile-$1.json"

# 20,000 requests, some 10 minutes.
run benchmarks/bench_resident.py build/models/int8 --save "$results/resident-$1.json"
