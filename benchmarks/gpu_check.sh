#!/usr/bin/env bash
# Everything that needs a GPU, in one go and under 9 minutes: build, tests, compute-sanitizer, what the
# compiler makes of the kernels, and benchmarks, the most important rows first. What the time did not suffice for is
# named. A short table comes last; JSON goes to the output folder.
#
#   benchmarks/gpu_check.sh [output folder]
#   benchmarks/gpu_check.sh --dry-run [output folder]    without a GPU: tiny shapes, Triton's interpreter, no timings
#
# PYTHON chooses the interpreter, which must have torch and triton; default: .venv's, else python3. PEERS_PATH may
# name folders with unpacked wheels of other libraries to compare with. Steps that fail are named at the end.
set -uo pipefail
if [ "${1:-}" = --dry-run ]; then
  DRY_RUN=1
  shift
fi
DRY_RUN=${DRY_RUN:-0}
cd "$(dirname "$0")/.."

OUTPUT=${1:-${OUT:-gpu_results}}
[ -n "${PYTHON:-}" ] || PYTHON=$([ -x .venv/bin/python ] && echo "$PWD/.venv/bin/python" || echo python3)
mkdir -p "$OUTPUT"
OUTPUT=$(cd "$OUTPUT" && pwd)
SITE=$(mktemp -d)
SCRATCH=$(mktemp -d)
trap 'rm -rf "$SITE" "$SCRATCH"' EXIT
unset TRITON_INTERPRET
export PYTHONUNBUFFERED=1
failed=()

step() { # step NAME SECONDS COMMAND...: run it with a time limit, keep its output, note a failure
  local name=$1 limit=$2 start=$SECONDS
  shift 2
  echo "== $name"
  timeout "$limit" "$@" 2>&1 | tee "$OUTPUT/$name.log" | tail -n 15
  local status=${PIPESTATUS[0]}
  [ "$status" = 0 ] || failed+=("$name (exit $status)")
  echo "-- $name: $((SECONDS - start)) s"
}

finish() { # finish LOG: the short table, and what failed
  echo
  echo "== summary after $SECONDS s; output in $OUTPUT"
  grep -E '^(cut|FAILED)' "$1"
  sed -n '/^problem /,$p' "$1"
  if [ ${#failed[@]} -gt 0 ]; then
    printf 'FAILED: %s\n' "${failed[@]}"
    exit 1
  fi
  echo "all steps passed"
  exit 0
}

if [ "$DRY_RUN" = 1 ]; then
  step tests 60 "$PYTHON" -m pytest -q --collect-only --import-mode=importlib tests/gpu
  step codegen 60 "$PYTHON" benchmarks/codegen.py --arch sm_90 --json "$OUTPUT/codegen.json" --only '^SGD, float32$'
  step gpu 180 env TRITON_INTERPRET=1 "$PYTHON" benchmarks/gpu.py --dry-run
  finish "$OUTPUT/gpu.log"
fi

export PYTHONPATH="$SITE${PYTHONPATH:+:$PYTHONPATH}"
FUSED_SCHED_COMMIT=$(git describe --always --dirty 2>/dev/null || echo unknown)
export FUSED_SCHED_COMMIT

# Installed into a folder of its own, so that nothing of the machine changes; for this machine's GPU only.
TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-$("$PYTHON" -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())')}
export TORCH_CUDA_ARCH_LIST
step build 90 "$PYTHON" -m pip install --quiet --no-index --no-build-isolation --no-deps --target "$SITE" .
if [ ! -d "$SITE/fused_sched" ]; then
  echo "going on without the C++ extension"
  cp -r fused_sched "$SITE/"
  rm -f "$SITE"/fused_sched/*.so
  cp -r kernels "$SITE/fused_sched/kernels"
fi
# From a copy without the checkout's fused_sched, so that the installed package is what is tested.
cp -r tests benchmarks examples pyproject.toml "$SCRATCH/"
cd "$SCRATCH" || exit 1
step tests 115 "$PYTHON" -m pytest -q --maxfail=10 -p no:cacheprovider tests/gpu
step tests-cuda 45 env FUSED_SCHED_BACKEND=cuda "$PYTHON" -m pytest -q --maxfail=10 -p no:cacheprovider tests/gpu/test_capture.py

if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck; do
    step "$tool" 40 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$tool" --error-exitcode 1 \
      "$PYTHON" -m pytest -q -p no:cacheprovider tests/gpu/test_update.py -k '(adamw or momentum) and float32 and unaligned'
  done
else
  echo "== compute-sanitizer is not installed: skipped"
fi

step codegen 35 "$PYTHON" benchmarks/codegen.py --arch sm_90 --json "$OUTPUT/codegen.json" \
  --only '^(Adam|SGD momentum), (float32|bfloat16)$|fused|program'
step gpu 190 "$PYTHON" benchmarks/gpu.py --seconds 175 --json "$OUTPUT/gpu.json"
finish "$OUTPUT/gpu.log"
