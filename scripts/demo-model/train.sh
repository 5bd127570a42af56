#!/bin/sh
# Makes models/demo from nothing: pictures, tokenizer, autoencoder, judge, UNet and text encoder, export,
# measurements. Seconds of training can be set; with the defaults two busy cores take two hours.
#
#   scripts/demo-model/train.sh [WORK_FOLDER] [OUT_FOLDER]
#   DEVICE=cuda BATCH=128 scripts/demo-model/train.sh ...    on a GPU; PYTHON has torch, diffusers and transformers
#
# To see that all of it runs, with a model that has learnt nothing:
#   PICTURES=1600 AUTOENCODER_SECONDS=40 JUDGE_SECONDS=30 DIFFUSION_SECONDS=60 CASES=8 scripts/demo-model/train.sh
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
work=$(mkdir -p "${1:-/tmp/diorama-demo-model}" && cd "${1:-/tmp/diorama-demo-model}" && pwd)
out=$(mkdir -p "${2:-$work/export}" && cd "${2:-$work/export}" && pwd)
cd "$here"
python=${PYTHON:-$root/.libtorch/venv/bin/python}
export OMP_WAIT_POLICY=PASSIVE  # spinning threads are the slowest thing on a busy machine

"$python" -m pip download --quiet --no-deps open_clip_torch -d "$work/wheels"
"$python" make_tokenizer.py "$work/wheels" "$work/model/tokenizer"
"$python" scenes.py make "${PICTURES:-16000}" 0 "$work/train.npz"
"$python" train_autoencoder.py "$work" "${AUTOENCODER_SECONDS:-1260}"
"$python" judge.py "$work" "${JUDGE_SECONDS:-240}"
"$python" export_judge.py "$work" "$work/judge"
"$python" train_diffusion.py "$work" "${DIFFUSION_SECONDS:-4200}" --grounding "${GROUNDING:-0.05}" --batch "${BATCH:-16}"
"$python" export.py "$work" "$out" "${WEIGHTS:-ema}"
[ -e "$out/diorama.json" ] || cp "$root/models/demo/diorama.json" "$out/"
"$python" absgrad.py "$out"
"$python" evaluate.py "$work" "$out" ${CASES:+--cases "$CASES"} --grid "$work/samples.png"
"$python" evaluate_method.py "$work" "$out" ${CASES:+--cases "$CASES"} --grid "$work/method.png"
