#!/usr/bin/env bash
# Measures on a machine with a GPU, a torch 2.11 with CUDA and no Rust: a program that is built here is carried there.
#
#   here:   scripts/bench/gpu.sh pack           builds, and packs what is needed into target/bench/gpu.tar
#   there:  tar xf gpu.tar && gpu/scripts/bench/gpu.sh run [PYTHON]
#           writes gpu/docs/benchmarks-gpu.json; put it into docs/ here, and `make bench` takes it up
#
# PYTHON (default python3) has torch 2.11; diffusers, transformers and Pillow are installed for it if they are missing.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"

pack() {
  cd "$root"
  local bench folder=target/bench/gpu
  bench="$(cargo build --release --locked -p diorama-diffusion --bench speed --message-format=json |
    python3 -c 'import json, sys; print([m["executable"] for m in map(json.loads, sys.stdin) if m.get("executable") and m["target"]["kind"] == ["bench"]][0])')"
  rm -rf "$folder"
  mkdir -p "$folder/models/demo" "$folder/golden"
  cp "$bench" "$folder/speed"
  cp -r --parents scripts/bench scripts/requirements.txt examples/demo/references models/demo/tokenizer "$folder"
  cp -r crates/diffusion/tests/golden/sd1/model "$folder/golden/"
  tar cf target/bench/gpu.tar -C target/bench gpu
  rm -r "$folder"
  echo "Packed: target/bench/gpu.tar ($(du -h target/bench/gpu.tar | cut -f1))"
}

run() {
  local python="${1:-python3}"
  "$python" -c 'import diffusers, transformers, PIL' 2>/dev/null ||
    "$python" -m pip install --quiet $(grep -E '^(diffusers|transformers|safetensors|pillow)' "$root/scripts/requirements.txt")
  local lib
  lib="$("$python" -c 'import os, torch; print(os.path.join(os.path.dirname(torch.__file__), "lib"))')"
  # Diorama's program finds the CPU half on the library path, and opens the CUDA half by itself.
  LD_LIBRARY_PATH="$lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" DIORAMA_TORCH_LIB="$lib" \
    "$python" -B "$root/scripts/bench/gpu.py" --bench "$root/speed" --root "$root" "${@:2}"
}

case "${1:-}" in
  pack) pack ;;
  run) run "${@:2}" ;;
  *) sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 2 ;;
esac
