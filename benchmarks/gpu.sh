#!/usr/bin/env bash
# What a machine with a GPU and ten minutes can tell: tests, speed of a step, three teachers. Run it in the checkout:
#
#   benchmarks/gpu.sh [--device cuda|cpu] [--minutes 10] [--out FOLDER] [--parts A,B] [--archs A,B]
#
# It needs Python 3.11 or 3.12 with the packages of d3d without extras, pytest and hypothesis, and for one test accelerate;
# no open3d, no pyrender, no dask, no network. The parts are tests, steps, prediction, fusion and teachers. With open3d,
# the part fusion also measures Open3D, on the GPU if open3d was built with CUDA; it needs scikit-image.
# Packages in a folder wheels/ of the checkout are installed first. An image with PyTorch, torchvision, timm, pandas,
# scipy, matplotlib, safetensors and tqdm usually lacks these (for Python 3.12):
#   pip download --only-binary=:all: --no-deps --python-version 3.12 --implementation cp \
#       --platform manylinux_2_17_x86_64 -d wheels -c constraints.txt \
#       pydantic pydantic-core annotated-types typing-inspection pooch platformdirs
#
# Everything is written to FOLDER (by default $OUT, or gpu-results) as soon as it is known: summary.md, speed.json,
# prediction.json, teachers.json, and the teachers' weights in pieces with SHA256SUMS; benchmarks/teachers.py says how to
# join them.
# A part that takes too long is ended and the next one starts. --device cpu tries the script with tiny sizes.
set -u
cd "$(dirname "$0")/.." || exit 1
device=cuda minutes=10 parts=tests,steps,prediction,fusion,teachers archs=monodepth2,hrdepth,monovit,lite
out="${OUT:-gpu-results}"
while [ $# -gt 0 ]; do
    case "$1" in -h | --help) sed -n '2,/^set -u/s/^# \{0,1\}//p' "$0"; exit 0 ;; esac
    [ $# -gt 1 ] || { echo "$1 needs a value; see the first lines of $0" >&2; exit 2; }
    case "$1" in
        --device) device=$2 ;; --minutes) minutes=$2 ;; --out) out=$2 ;; --parts) parts=$2 ;; --archs) archs=$2 ;;
        *) echo "unknown option $1; see the first lines of $0" >&2; exit 2 ;;
    esac
    shift 2
done
python=${PYTHON:-python3}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 1
summary="$out/summary.md" end=$(($(date +%s) + ${minutes%.*} * 60)) failed=0
scratch=$(mktemp -d)
collect() { cat "$scratch/output" >>"$summary"; : >"$scratch/output"; }
touch "$scratch/output"
trap 'collect; rm -rf "$scratch"' EXIT
trap 'exit 143' TERM INT
if compgen -G "wheels/*.whl" >/dev/null; then
    "$python" -m pip install -q --no-index --no-deps --no-compile --target "$scratch/site" wheels/*.whl || exit 1
    PYTHONPATH="$PYTHONPATH:$scratch/site"
fi

say() { printf '%s\n' "$@" | tee -a "$summary"; }
left() { echo $((end - $(date +%s))); }
# part NAME SECONDS COMMAND...: runs a command in at most so much time, and notes its last lines
part() {
    local name=$1 limit=$(($2 * patience)) start code
    shift 2
    [ "$limit" -gt "$(left)" ] && limit=$(left)
    [[ ",$parts," == *",${name%% *},"* ]] || return 0
    say "" "## $name"
    [ "$limit" -lt 10 ] && { say "left out: no time"; failed=1; return 0; }
    start=$(date +%s)
    # not into the summary at once: the tests fail if a file of the checkout changes
    timeout -k 5 "$limit" "$@" 2>"$scratch/errors" | tee "$scratch/output"
    code=${PIPESTATUS[0]}
    collect
    [ "$code" -ne 0 ] && { failed=1; say "status $code (124: out of time)"; tail -n 15 "$scratch/errors" | tee -a "$summary"; }
    say "" "$name: $(($(date +%s) - start)) s"
}

: >"$summary"
say "# A machine with a GPU: $(date -u +%F)"
"$python" - "$device" "$0" 2>&1 <<'PY' | tee -a "$summary"
import importlib.util, platform, sys
import torch
name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
print(f"{name}, PyTorch {torch.__version__}, Python {platform.python_version()}, device {sys.argv[1]}")
needed = ("timm torchvision numpy pandas scipy matplotlib PIL safetensors tqdm filelock pydantic pooch pytest hypothesis")
missing = [m for m in needed.split() if importlib.util.find_spec(m) is None]
print("all needed packages are there" if not missing else f"missing packages: {', '.join(missing)}; see {sys.argv[2]}")
sys.exit(bool(missing))
PY
[ "${PIPESTATUS[0]}" -eq 0 ] || exit 1

if [ "$device" = cpu ]; then
    sizes=64x64 more="--batch 2 --repeat 1" compile="" frames="--batches 1,2 --repeat 1" views="--size 64x48 --every 40"
    teachers="--size 64x64 --max-steps 3 --workers 0"
    export D3D_TEST_DEVICE=cpu patience=10
else
    patience=1
    sizes=384x288 more="--repeat 6" compile=--compile frames="--batches 1,16 --repeat 20" views="--size 384x288 --every 1"
    teachers="--size 192x160 --workers 8"
fi
part tests 200 "$python" -m pytest -q -p no:cacheprovider -m cuda --durations=5 tests/test_cuda.py
part steps 240 "$python" benchmarks/training_step.py --device "$device" --parts steps --sizes "$sizes" --archs "$archs" \
    --goals $compile $more --json "$out/speed.json"
part prediction 60 "$python" benchmarks/prediction.py --device "$device" --sizes "$sizes" --archs "$archs" $frames \
    --json "$out/prediction.json"
part fusion 60 "$python" benchmarks/quantile_fusion.py --device "$device" $views
part teachers 100000 "$python" benchmarks/teachers.py --device "$device" --archs "$archs" --out "$out" $teachers \
    --minutes "$(($(left) > 40 ? $(left) / 60 : 1))"
say "" "Finished with $(left) s to spare; results in $out"
exit "$failed"
