#!/usr/bin/env bash
# Everything that needs a GPU, in one go: tests, smoke missions, then the timings one by one.
# bash benchmarks/on_gpu.sh FOLDER [check] [time]; each part's output lies in FOLDER afterwards.
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

check() {
  part blocks-compile.log 100 $py benchmarks/kernel_blocks.py --compile 4 &
  for mission in A B C D E; do
    part "mission-$mission.log" 100 $py -m missions.local "$mission" --profile smoke --device cuda &
  done
  part pytest.log 130 $py -m pytest -q -m gpu -n 8 -p no:cacheprovider \
    -o filterwarnings=default tests/contracts tests/bem
  wait
}

timings() {
  part kernel_speed.json 60 $py benchmarks/kernel_speed.py
  part kernel_blocks.json 60 $py benchmarks/kernel_blocks.py
  part adapter_step.json 50 $py benchmarks/adapter_step.py --device cuda --rounds 13
  part generation_latency.json 90 $py benchmarks/generation_latency.py --device cuda --rounds 3
  part mixed_batch.json 50 $py benchmarks/mixed_batch.py --device cuda
  part packed_training.json 60 $py benchmarks/packed_training.py --device cuda \
    --rows 1 4 --shapes "d 192, 4 layers" "d 1024, 8 layers"
}

for what in "${@:-check}"; do
  case $what in
    check) check ;;
    time) timings ;;
    *) echo "unknown part '$what'; known: check, time" >&2; exit 2 ;;
  esac
done
