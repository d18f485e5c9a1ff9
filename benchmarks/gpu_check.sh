#!/usr/bin/env bash
# What needs a GPU, in parts for a machine that is lent for minutes. There it needs bash, coreutils and a python3 that
# has torch, triton, pytest and pytest-xdist; no network and no compiler but the C compiler that Triton calls.
#
#   benchmarks/gpu_check.sh pack FOLDER     here, without a GPU: everything that the parts need, built for one GPU
#   FOLDER/benchmarks/gpu_check.sh first [OUTPUT]    180 s: does it work, tests/gpu but for long replays, variants of kernels
#   FOLDER/benchmarks/gpu_check.sh full [OUTPUT]     320 s: what failed before, long replays, rows that matter most, memcheck
#   FOLDER/benchmarks/gpu_check.sh rest [OUTPUT]     240 s: further rows; the profiler's counts of launches last
#
# Where the checkout is copied to a machine with a GPU, with the ignored folder build/gpu, and $OUT comes back:
#
#   benchmarks/gpu_check.sh pack build/gpu
#   there:  bash build/gpu/benchmarks/gpu_check.sh first "$OUT"
#   copy what came back to build/gpu/previous; after a change, pack again: it keeps that folder
#   there:  bash build/gpu/benchmarks/gpu_check.sh full "$OUT"
#   copy what came back to build/gpu/previous, beside what is there
#   there:  bash build/gpu/benchmarks/gpu_check.sh rest "$OUT"
#
# Parts that run on one machine, one after the other with the same OUTPUT, need no copying.
# With --dry-run behind its name, a part takes the same path without a GPU: tiny shapes, Triton's interpreter, no times.
# PYTHON chooses the interpreter (default: .venv's for pack, python3 there), PART_SECONDS the time of a part,
# GPU_ARCH (9.0) what pack builds for. For pack, PEERS_PATH may name folders with unpacked wheels of other libraries,
# and FUSED_SCHED_BEFORE a folder with an earlier version of the package, as benchmarks/variants.py says.
# A part writes at most eight files. A step prints one line, and the end of its output when it fails; a table comes last.
set -uo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
LONG=tests/gpu/test_long_replays.py
LARGEST=$((16 << 20)) # bytes of a file that comes back
USAGE='usage: gpu_check.sh pack FOLDER | first|full|rest [--dry-run] [OUTPUT]'

# -- here: the folder --------------------------------------------------------------------------------

pack() { # pack FOLDER
  set -e
  local folder scratch arch=${GPU_ARCH:-9.0} python=${PYTHON:-$ROOT/.venv/bin/python} peer
  mkdir -p "$1"
  folder=$(cd "$1" && pwd)
  scratch=$(mktemp -d)
  # shellcheck disable=SC2064  # the folder of now
  trap "rm -rf '$scratch'" EXIT
  cd "$ROOT"
  rm -rf "$folder"/{site,apex_like,peers,before,tests,benchmarks,examples,pyproject.toml,COMMIT}
  # what git knows, without what an earlier build left in the checkout
  git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$scratch"
  cd "$scratch"
  FUSED_SCHED_BUILD_CPU=1 FUSED_SCHED_BUILD_CUDA=1 TORCH_CUDA_ARCH_LIST=$arch "$python" -m pip install --quiet \
    --disable-pip-version-check --no-index --no-build-isolation --no-deps --no-compile --target "$folder/site" .
  cp -r tests benchmarks examples pyproject.toml "$folder/"
  git -C "$ROOT" describe --always --dirty >"$folder/COMMIT"
  mkdir "$folder/apex_like"
  PYTHONPATH=benchmarks "$python" -c 'import pathlib, sys; from peers import apex_like
apex_like.built("sm_" + sys.argv[1].replace(".", ""), pathlib.Path(sys.argv[2]))' "$arch" "$folder/apex_like"
  IFS=: read -ra peers <<<"${PEERS_PATH:-}"
  for peer in ${peers[@]+"${peers[@]}"}; do
    mkdir -p "$folder/peers"
    cp -r "$peer"/. "$folder/peers/"
  done
  [ -z "${FUSED_SCHED_BEFORE:-}" ] || cp -r "$FUSED_SCHED_BEFORE" "$folder/before"
  "$python" benchmarks/packed.py "$folder"
}

# -- there: a part -----------------------------------------------------------------------------------

left() { # seconds until the part has to end
  echo $((PART_SECONDS - SECONDS))
}

stop=(timeout -k 3)

conclusion() { # conclusion LOG: of a command that did not fail; pytest's counts, without the rule around them
  local line
  line=$(tail -n 1 "$1" | cut -c -100)
  line=${line#"${line%%[!= ]*}"}
  line=${line%"${line##*[!= ]}"}
  case $line in
    *[0-9]\ passed*) echo "passed: $line" ;;
    [0-9]*\ skipped*) echo "NOTHING RAN: $line" ;;
    *) echo "passed: $line" ;;
  esac
}

step() { # step NAME SECONDS COMMAND...: run it within that time and the part's, keep its output, print a line
  local name=$1 limit=$2 start=$SECONDS status verdict
  shift 2
  [ "$limit" -le "$(left)" ] || limit=$(left)
  if [ "$limit" -lt 1 ]; then
    status=124 verdict='NOT RUN: no time left'
  else
    { "${stop[@]}" "$limit" "$@" >"$LOGS/$name.log" 2>&1; } 2>/dev/null # what bash says of a killed job
    status=$?
    case $status in
      0) verdict=$(conclusion "$LOGS/$name.log") ;;
      124 | 137) verdict="CUT after $limit s" ;;
      *) verdict="FAILED (exit $status)" ;;
    esac
  fi
  printf '%-12s %4d s  %s\n' "$name" $((SECONDS - start)) "$verdict"
  echo "$name $status $((SECONDS - start))" >>"$LOGS/steps.txt"
  [ "$status" = 0 ] && return
  failed+=("$name")
  [ -s "$LOGS/$name.log" ] && tail -n 15 "$LOGS/$name.log" | cut -c -200
}

tests() { # tests NAME SECONDS ARGUMENT...: a step of pytest; what fails is kept for the next part
  local name=$1 limit=$2
  local stop=(timeout --foreground -s INT -k 8) # an interrupt, of the first process alone: it still writes its reports
  shift 2
  step "$name" "$limit" "$PYTHON" -m pytest -v --tb=short -o cache_dir="$LOGS/pytest-$name" \
    --junit-xml="$OUTPUT/$PART-$name.xml" "$@"
}

table() { # table NAME: what the step's log ends with, from its table on
  local line shown=0
  [ -s "$LOGS/$1.log" ] || return
  while IFS= read -r line; do
    case $line in
      problem\ * | around\ * | variant,* | launches,* | host\ time* | training\ step*) shown=1 ;;
      cut,* | FAILED*) printf '%.200s\n' "$line" ;;
    esac
    [ $shown = 0 ] || printf '%.200s\n' "$line"
  done <"$LOGS/$1.log" | head -c 7000
}

wrap_up() { # logs into one file, and compiled kernels for the next part
  cd "$SCRATCH" || return
  "$PYTHON" -m tarfile -c "$OUTPUT/$PART-logs.tar.gz" logs
  "$PYTHON" -m tarfile -c "$OUTPUT/triton-cache.tar.gz" triton
  if [ "$(stat -c %s "$OUTPUT/triton-cache.tar.gz")" -gt "$LARGEST" ]; then
    rm "$OUTPUT/triton-cache.tar.gz"
    echo "triton-cache.tar.gz is left out: it is larger than $LARGEST bytes"
  fi
  cd /
  rm -rf "$SCRATCH"
}

earlier() { # earlier FILE: where it is, if an earlier part wrote it
  local where
  for where in "$OUTPUT" "$ROOT/previous"; do
    [ ! -f "$where/$1" ] || { echo "$where/$1" && return; }
  done
}

unpack() { # unpack FILE FOLDER: of what an earlier part wrote
  local file
  file=$(earlier "$1")
  [ -z "$file" ] || "$PYTHON" -m tarfile -e "$file" "$2"
}

first() {
  step smoke 45 "$PYTHON" benchmarks/smoke.py ${dry[@]+"${dry[@]}"}
  tests tests 100 -n "$WORKERS" tests/gpu --ignore "$LONG"
  FUSED_SCHED_BACKEND=cuda tests tests-cuda 40 -n "$WORKERS" tests/gpu/test_capture.py
  if [ "$DRY_RUN" = 1 ]; then
    step variants $(($(left) - 8)) "$PYTHON" benchmarks/gpu.py --variants --dry-run
  else
    step variants $(($(left) - 8)) "$PYTHON" benchmarks/gpu.py --variants --seconds $(($(left) - 16)) \
      --json "$OUTPUT/variants.json"
  fi
  table variants
}

again() { # again NAME SECONDS ARGUMENT...: those tests of the first part that did not pass then
  local name=$1 limit=$2 line before=unknown
  shift 2
  while IFS= read -r line; do
    [ "${line%% *}" != "$name" ] || read -r _ before _ <<<"$line"
  done < <(cat "$SCRATCH/previous/logs/steps.txt" 2>/dev/null)
  [ ! -d "$SCRATCH/previous/logs/pytest-$name" ] || cp -r "$SCRATCH/previous/logs/pytest-$name" "$LOGS/"
  case $before in
    0) printf '%-12s    0 s  nothing failed before\n' "$name" ;;
    1) tests "$name" "$limit" --last-failed -n "$WORKERS" "$@" ;;
    *) tests "$name" "$limit" --failed-first -n "$WORKERS" "$@" ;; # they were cut, or there was no first part
  esac
}

measure() { # measure PART SECONDS ARGUMENT...: a step of benchmarks/gpu.py, which plans with a little less
  local name=$1 limit=$2
  shift 2
  if [ "$DRY_RUN" = 1 ]; then
    step "$name" "$limit" "$PYTHON" benchmarks/gpu.py --part "$name" --dry-run "$@"
  else
    step "$name" "$limit" "$PYTHON" benchmarks/gpu.py --part "$name" --seconds $((limit - 10)) \
      --json "$OUTPUT/gpu-$name.json" "$@"
  fi
}

memcheck() { # memcheck NAME FILE EXPRESSION: the tests of FILE that match, under compute-sanitizer
  local sanitizer=(env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck --error-exitcode 1)
  [ "$DRY_RUN" = 0 ] || sanitizer=()
  step "memcheck-$1" 50 "${sanitizer[@]}" "$PYTHON" -m pytest -q --tb=short -p no:cacheprovider "$2" -k "$3"
}

full() {
  unpack first-logs.tar.gz "$SCRATCH/previous"
  again tests 60 tests/gpu --ignore "$LONG"
  FUSED_SCHED_BACKEND=cuda again tests-cuda 40 tests/gpu/test_capture.py
  tests tests-long 40 -n "$WORKERS" "$LONG"
  measure full $(($(left) - 100))
  memcheck triton tests/gpu/test_update.py '(adamw or momentum) and float32 and unaligned'
  memcheck cuda tests/gpu/test_cuda_update.py '(adamw or momentum) and float32 and unaligned and cpu'
  table full
}

rest() {
  local file
  file=$(earlier gpu-full.json)
  measure rest $(($(left) - 60)) ${file:+--after "$file"}
  measure counts $(($(left) - 3))
  table rest
  table counts
}

refuse() { # refuse REASON: what was asked for cannot be done
  printf 'error: %s\n%s\n' "$1" "$USAGE" >&2
  exit 2
}

part() { # part NAME [--dry-run] [OUTPUT]
  PART=$1
  shift
  DRY_RUN=0
  WORKERS=8
  dry=()
  if [ "${1:-}" = --dry-run ]; then
    DRY_RUN=1
    WORKERS=2
    dry=(--dry-run)
    shift
  fi
  case ${1:-} in -*) refuse "unknown option $1" ;; esac
  [ $# -le 1 ] || refuse "one OUTPUT is enough, not: $*"
  OUTPUT=${1:-${OUT:-$PWD/gpu_results}}
  PYTHON=${PYTHON:-python3}
  [ -d "$ROOT/site" ] || refuse "$ROOT has no site/: run this from a folder made by gpu_check.sh pack"
  FUSED_SCHED_COMMIT=$(cat "$ROOT/COMMIT" 2>/dev/null)
  [ -n "$FUSED_SCHED_COMMIT" ] || refuse "$ROOT/COMMIT does not name a commit: pack the folder again"
  command -v "$PYTHON" >/dev/null || refuse "$PYTHON was not found: set PYTHON to a python3 that has torch, triton and pytest"
  mkdir -p "$OUTPUT" || exit 2
  OUTPUT=$(cd "$OUTPUT" && pwd) || exit 2
  SCRATCH=$(mktemp -d)
  LOGS=$SCRATCH/logs
  export TRITON_CACHE_DIR=$SCRATCH/triton
  mkdir "$LOGS" "$TRITON_CACHE_DIR"
  trap wrap_up EXIT
  cd "$ROOT" || exit 2
  unset TRITON_INTERPRET FUSED_SCHED_BACKEND
  [ "$DRY_RUN" = 0 ] || export TRITON_INTERPRET=1
  export PYTHONUNBUFFERED=1 PYTHONPATH=$ROOT/site APEX_LIKE=$ROOT/apex_like
  [ "$DRY_RUN" = 1 ] || PATH=$PATH:/usr/local/cuda/bin # where compute-sanitizer is
  [ ! -d "$ROOT/peers" ] || export PEERS_PATH=$ROOT/peers
  [ ! -d "$ROOT/before" ] || export FUSED_SCHED_BEFORE=$ROOT/before
  export FUSED_SCHED_COMMIT
  echo "== $PART of commit $FUSED_SCHED_COMMIT, at most $PART_SECONDS s, $(nproc) cores, $PYTHON"
  unpack triton-cache.tar.gz "$SCRATCH"
  failed=()
  "$PART"
  echo "== $PART: $SECONDS s"
  [ ${#failed[@]} = 0 ] || { echo "FAILED: ${failed[*]}"; exit 1; }
  echo "all steps passed"
}

case ${1:-} in
  pack)
    [ $# = 2 ] || { echo "$USAGE" >&2; exit 2; }
    pack "$2"
    ;;
  first) PART_SECONDS=${PART_SECONDS:-180} && part "$@" ;;
  full) PART_SECONDS=${PART_SECONDS:-320} && part "$@" ;;
  rest) PART_SECONDS=${PART_SECONDS:-240} && part "$@" ;;
  *)
    echo "$USAGE" >&2
    exit 2
    ;;
esac
