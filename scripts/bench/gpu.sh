#!/usr/bin/env bash
# Checks and measures on a machine with a GPU, a torch 2.11 with CUDA, and neither Rust nor a network: the programs are
# built here and carried there.
#
#   here:   scripts/bench/gpu.sh pack             builds; puts programs and wheels into target/gpu
#   carry this checkout with target/gpu there (rsync, say)
#   there:  scripts/bench/gpu.sh probe [OPTION]   parts of a step beside what scripts/bench/predict.py says, a minute
#           scripts/bench/gpu.sh check            the tests that need a GPU, and the demo on CPU and GPU
#           scripts/bench/gpu.sh bench [OPTION]   writes docs/benchmarks-gpu.json; `make bench` here takes it up
#           scripts/bench/gpu.sh prove FOLDER     all three without PyTorch, in less than ten minutes; leaves there what
#                                                 they say. PyTorch needs a call of its own:
#                                                 bench --programs "diffusers, tuned" --batches 16
#           scripts/bench/gpu.sh python COMMAND   runs Python with what was packed, such as the demo model's training
#
# PYTHON (default python3) has torch 2.11 and transformers.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
carried="$root/target/gpu"
python="${PYTHON:-python3}"

pack() {
  cd "$root"
  local named='import json, sys; print([m["executable"] for m in map(json.loads, sys.stdin) if m.get("executable") and m["target"]["name"] == sys.argv[1]][0])'
  local programs="$carried/programs" needs
  rm -rf "$carried"
  mkdir -p "$programs" "$carried/wheels"
  cp "$(cargo test --locked --workspace --no-run --message-format=json | python3 -c "$named" parity)" "$programs/parity"
  cp "$(cargo build --locked --release -p diorama-diffusion --bench speed --message-format=json | python3 -c "$named" speed)" "$programs/speed"
  cp "$(cargo build --locked --release -p diorama --message-format=json | python3 -c "$named" diorama)" "$programs/diorama"
  strip "$programs"/*
  tar cJf "$carried/programs.tar.xz" -C "$programs" .
  rm -r "$programs"
  needs="$(grep '^diffusers==' scripts/requirements.txt)"
  python3 -m pip download --quiet --no-deps --dest "$carried/wheels" "$needs" importlib_metadata
  du -sh "$carried"
}

# Unpacks once, and says where things are.
ready() {
  if [ ! -d "$carried/programs" ]; then
    mkdir -p "$carried/unpacked"
    "$python" -m tarfile -e "$carried/programs.tar.xz" "$carried/unpacked"
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$carried/site" "$carried"/wheels/*.whl
    mv "$carried/unpacked" "$carried/programs"
  fi
  export PYTHONPATH="$carried/site${PYTHONPATH:+:$PYTHONPATH}" PYTHONDONTWRITEBYTECODE=1
  lib="$("$python" -c 'import os, torch; print(os.path.join(os.path.dirname(torch.__file__), "lib"))')"
}

# Runs our programs, or what starts them: the CPU half of libtorch is found on the library path, the CUDA half by the
# program itself.
with_libtorch() {
  LD_LIBRARY_PATH="$lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" DIORAMA_TORCH_LIB="$lib" "$@"
}

check() {
  ready
  local failed=0
  CARGO_MANIFEST_DIR="$root/crates/diffusion" NVIDIA_TF32_OVERRIDE=0 \
    with_libtorch "$carried/programs/parity" --ignored --test-threads=1 --nocapture gpu:: || failed=1
  local device out
  out="$(mktemp -d)"
  for device in cpu cuda; do
    with_libtorch "$carried/programs/diorama" run "$root/examples/demo/manifest.jsonl" --model "$root/models/demo" \
      --device "$device" --batch-size 8 --out "$out/$device"
  done
  "$python" "$root/scripts/bench/compare_runs.py" "$out/cpu" "$out/cuda" || failed=1
  rm -r "$out"
  return "$failed"
}

probe() {
  ready
  "$python" "$root/scripts/bench/probe.py" "$@"
}

bench() {
  ready
  with_libtorch "$python" "$root/scripts/bench/gpu.py" --bench "$carried/programs/speed" \
    --diorama "$carried/programs/diorama" "$@"
}

# Each part has its own time, so that one that hangs leaves the others theirs; one that fails does not end it.
prove() {
  local out="$1" failed=0
  mkdir -p "$out"
  timeout 100 "$0" probe --out "$out/probe.json" > "$out/probe.txt" 2>&1 || failed=1
  timeout 200 "$0" check > "$out/check.txt" 2>&1 || failed=1
  timeout 280 "$0" bench --programs Diorama --rounds 2 --out "$out/benchmarks-gpu.json" > "$out/bench.txt" 2>&1 || failed=1
  tail -n 40 "$out"/*.txt
  return "$failed"
}

case "${1:-}" in
  pack) pack ;;
  check) check ;;
  probe) probe "${@:2}" ;;
  bench) bench "${@:2}" ;;
  prove) prove "${2:?a folder for what it says}" ;;
  python)
    ready
    "$python" "${@:2}" ;;
  *) sed -n '2,16s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 2 ;;
esac
