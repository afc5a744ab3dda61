#!/usr/bin/env bash
# What wants a GPU, in one go, each part with a log of its own under OUT; a part that fails does not stop the others.
#
#   benchmarks/on_gpu.sh pools OUT FOLDER     train FOLDER's wide teacher on, distil and score the pools of its profiled
#                                             runs r56 and wrn, and run the tests that need a GPU
#   benchmarks/on_gpu.sh tune OUT FOLDER RUN  tune the networks that wait in FOLDER's RUN-here
#   benchmarks/on_gpu.sh speed OUT MODEL      images a second of a fine-tuning step
#   benchmarks/on_gpu.sh table OUT BUNDLE     the latency table of this GPU, from what `lana profile MODEL --runtime torch-cuda
#                                             --bundle BUNDLE` wrote, which takes no GPU: OUT/bundle/table.csv. Run nothing beside it
#
# FOLDER holds data/ (CIFAR-10 as parquet, the networks' code and weights) and the runs; it is where the runs' recipes
# find them. SECONDS_AT_MOST ends tune and table early; what is finished by then is kept. An interpreter with lana's packages is
# taken from PYTHON (default: python3), the numbers of epochs, seeds and processes from EPOCHS (of the wide teacher WIDE_EPOCHS),
# SEEDS and PROCESSES.
set -u
python=${PYTHON:-python3}
here=$(cd "$(dirname "$0")" && pwd)
export PYTHONPATH="$here/..:$here${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 PYTORCH_NVML_BASED_CUDA_CHECK=1 OMP_NUM_THREADS=1
SECONDS_AT_MOST=${SECONDS_AT_MOST:-3600}
part=$1
mkdir -p "$2"
out=$(realpath "$2")
shift 2

timed() {  # NAME COMMAND…: with its seconds and the end of its log
    local name=$1 began=$SECONDS
    shift
    "$@" > "$out/$name.log" 2>&1
    echo "== $name: exit $? after $((SECONDS - began)) s"
    tail -n 8 "$out/$name.log"
}

wide() {
    timed train-wide "$python" "$here/train_wide.py" data/wide_resnet.py:wrn16_4 --weights data/wrn16_4.safetensors \
        --data parquet:data --epochs "${WIDE_EPOCHS:-30}" --device cuda --out wrn-on.safetensors
    timed pool-wrn "$python" "$here/pool.py" wrn --workers "${PROCESSES:-8}"
}

case $part in
pools)
    (cd "$here/.." && timed gpu-tests "$python" -m pytest -m gpu tests) &
    cd "$1" || exit 2
    wide &
    timed pool-r56 "$python" "$here/pool.py" r56 --workers "${PROCESSES:-8}"
    wait
    ;;
tune)
    cd "$1" || exit 2
    # One small network leaves most of a large GPU idle: processes that share it through MPS compute side by side.
    command -v nvidia-cuda-mps-control > /dev/null && nvidia-cuda-mps-control -d
    timed "tune-$2" timeout "$SECONDS_AT_MOST" "$python" "$here/tune.py" "$2" "$2-here/tuned" --epochs "${EPOCHS:-10}" \
        --seeds "${SEEDS:-1}" --last "*resnet44*" --last "teacher*" --last "single-shot*" \
        --last "*-fastest*" --processes "${PROCESSES:-8}"
    ;;
speed)
    timed speed "$python" "$here/tuning_speed.py" "$1" --device cuda --batch 128
    ;;
table)
    bundle=$(realpath "$1") python=$(command -v "$python" | xargs realpath -s)
    mkdir -p "$out/bundle"
    cd "$out/bundle"
    "$python" -m zipfile -e "$bundle" .
    timed table timeout "$SECONDS_AT_MOST" "$python" run.py  # goes on where it was stopped
    ;;
*)
    echo "Expected pools, tune, speed or table, not $part." >&2
    exit 2
    ;;
esac
