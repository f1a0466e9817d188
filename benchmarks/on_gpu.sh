#!/usr/bin/env bash
# What needs a GPU, part by part: tests, timings, a launch of the five missions through Ray.
# bash benchmarks/on_gpu.sh FOLDER kernels check time blocks launch; outputs lie in FOLDER after it.
set -u
cd "$(dirname "$0")/.."
out=$1; shift
mkdir -p "$out"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
py=${PYTHON:-python3}

part() { # part NAME SECONDS COMMAND...: never ends the script; says how it went
  local name=$1 limit=$2 started=$SECONDS rc
  shift 2
  timeout -k 5 "$limit" "$@" >"$out/$name" 2>"$out/$name.err"
  rc=$?
  echo "$name: exit $rc, $((SECONDS - started)) s"
  [ -s "$out/$name.err" ] || rm -f "$out/$name.err"
}

kernels() {
  part kernel-tests.log 70 $py -m pytest -v -n 4 -p no:cacheprovider -o filterwarnings=default \
    tests/bem/kernels/test_kernels.py
  part kernel_speed.json 60 $py benchmarks/kernel_speed.py
}

blocks() {
  part blocks-compile.log 60 $py benchmarks/kernel_blocks.py --compile 4
  part kernel_blocks.json 60 $py benchmarks/kernel_blocks.py
}

check() { # not in more processes: each holds a CUDA context and some gigabytes of memory
  part adapter-tests.log 200 $py -m pytest -v -m gpu -n 5 -p no:cacheprovider \
    -o filterwarnings=default tests/contracts
}

timings() {
  part adapter_step.json 40 $py benchmarks/adapter_step.py --device cuda --rounds 13
  part generation_latency.json 60 $py benchmarks/generation_latency.py --device cuda --rounds 2
  part mixed_batch.json 40 $py benchmarks/mixed_batch.py --device cuda
  part packed_training.json 50 $py benchmarks/packed_training.py --device cuda \
    --rows 1 4 --shapes "d 1024, 4 layers"
}

launch() { # five missions side by side on one GPU, through Ray
  part launch.log "${LAUNCH_S:-120}" $py fleet.py launch --missions A,B,C,D,E \
    --profile "${PROFILE:-smoke}" --set resources.gpus=1/5 --runs-dir "$out/runs" ${LAUNCH:-}
  part status.json 20 $py fleet.py status --runs-dir "$out/runs" --json
}

for what in "$@"; do
  case $what in
    kernels | blocks | check | launch) "$what" ;;
    time) timings ;;
    *) echo "unknown part '$what'; known: kernels, check, time, blocks, launch" >&2; exit 2 ;;
  esac
done
