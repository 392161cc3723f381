#!/usr/bin/env bash
# Makes .venv with the pinned stack, or completes one that was interrupted.
#
# The stamp is written last, so that a venv without it is never taken for a
# whole one. Everything before the stamp may be repeated: pip skips what is in
# place, and sweep.py removes what a killed pip left half installed.
#
#   PYTHON=/path/to/python3.11 requirements/install.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=$PWD/.venv
python=$venv/bin/python
log=$venv/install.log
constraints=requirements/constraints.txt
stamp=$venv/.mmflora-$(
    { echo "$PWD"; cat requirements/*.{py,sh,txt}; } | sha256sum | cut -c 1-16)
unset PYTHONPATH PYTHONHOME

is_complete() { [[ -e $stamp ]] && "$python" -c '' 2>/dev/null; }

fail() {
    printf 'set-up: %s\n' "$@" >&2
    exit 1
}

is_supported() {
    "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' \
        2>/dev/null
}

find_python() {
    if [[ -n ${PYTHON:-} ]]; then
        is_supported "$PYTHON" || fail \
            "PYTHON=$PYTHON is not a Python 3.10, 3.11 or 3.12." \
            'Point PYTHON to one of these; 3.11 is the one tested most.'
        base=$PYTHON
        return
    fi
    for base in python3.11 python3.12 python3.10 python3; do
        if is_supported "$base"; then return; fi
    done
    fail 'no Python 3.10, 3.11 or 3.12 was found.' \
        'Install one (Debian: apt install python3.11 python3.11-venv' \
        'python3.11-dev), or name one: make venv PYTHON=/path/to/python3.11'
}

check_compiler() {
    command -v "${CXX:-g++}" >/dev/null || fail \
        "no C++ compiler: '${CXX:-g++}' was not found; mmcv is compiled here." \
        'Install one (Debian: apt install g++), or name one with CXX.'
    "$1" - <<'PY' || fail \
        "Python.h is missing: the headers of $("$1" --version) are needed" \
        'to compile mmcv. Install them (Debian: apt install python3-dev).'
import os, sys, sysconfig
header = os.path.join(sysconfig.get_path('include'), 'Python.h')
sys.exit(not os.path.isfile(header))
PY
}

make_venv() {
    "$base" -c 'import ensurepip, venv' 2>/dev/null || fail \
        "$("$base" --version) has no venv module." \
        'Install it (Debian: apt install python3-venv).'
    rm -rf "$venv"
    "$base" -m venv "$venv"
}

# Minutes and seconds since $1.
elapsed() { printf '%d:%02d' $(((SECONDS - $1) / 60)) $(((SECONDS - $1) % 60)); }

# What pip did last, in at most 60 columns.
last_act() {
    grep -E '^ *(Collecting|Downloading|Processing|Building|Installing) ' \
        "$log" | tail -n 1 | sed 's/^ *//' | cut -c 1-60
}

# Says every 20 seconds that the step is alive, until the script ends.
# `read` is the clock because a `sleep` would outlive the one who kills this.
pulse() {
    local began=$1 nothing objects plan total
    exec {nothing}<> <(:)
    while kill -0 $$ 2>/dev/null; do
        read -rt 20 -u "$nothing" || true
        plan=$(find "$TMPDIR" -name build.ninja 2>/dev/null | head -n 1)
        if [[ -n $plan ]]; then
            objects=$(find "$TMPDIR" -name '*.o' 2>/dev/null | wc -l)
            total=$(grep -c '^build .*\.o: ' "$plan" || true)
            printf '    %s  compiled %d of %d files\n' \
                "$(elapsed "$began")" "$objects" "$total"
        else
            printf '    %s  %s\n' "$(elapsed "$began")" "$(last_act)"
        fi
    done
}

# step TITLE COMMAND…: the command's output goes to the log.
step() {
    local began=$SECONDS status=0
    printf '==> %s\n' "$1"
    shift
    printf '\n==> %s\n' "$*" >>"$log"
    pulse "$began" 9>&- &
    pulse_pid=$!
    "$@" >>"$log" 2>&1 || status=$?
    stop_pulse
    if ((status)); then
        tail -n 30 "$log" >&2
        fail "this step failed (exit status $status); the whole log: $log" \
            'The same command resumes where it stopped.'
    fi
    printf '    done in %s\n' "$(elapsed "$began")"
}

stop_pulse() {
    if [[ -n ${pulse_pid:-} ]]; then
        kill "$pulse_pid" 2>/dev/null || true
        wait "$pulse_pid" 2>/dev/null || true
        pulse_pid=
    fi
}

pip_install() {
    "$python" -m pip install --no-input --disable-pip-version-check \
        --progress-bar off -c "$constraints" "$@"
}

# mmcv compiles for CUDA when torch sees a GPU, and then needs the toolkit of
# torch's own CUDA version. Without that, hide the GPU from the compilation.
choose_mmcv_ops() {
    nvidia-smi -L >/dev/null 2>&1 || return 0
    local wanted found
    wanted=$("$python" -c 'import torch; print(torch.version.cuda or "")')
    found=$("${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" --version 2>/dev/null |
        sed -n 's/.*release \([0-9]*\).*/\1/p') || true
    if [[ -n $found && $found == "${wanted%%.*}" ]]; then
        echo "    A GPU and CUDA $found: the CUDA operators take far longer."
        return
    fi
    export CUDA_VISIBLE_DEVICES=
    echo "    A GPU, but no CUDA ${wanted%%.*} toolkit (nvcc): mmcv's operators"
    echo '    will run on the CPU only. The README says how to use the GPU.'
}

# Python's own flags ask for debug information, which takes more than half of
# the compiler's time.
compile_mmcv() {
    CFLAGS="${CFLAGS:-} -g0" CXXFLAGS="${CXXFLAGS:-} -g0" \
        pip_install --no-build-isolation onedl-mmcv
}

if is_complete; then exit 0; fi

# The lock is inherited by pip: if this script is killed and its pip lives on,
# the next set-up waits for that pip to end.
exec 9>.venv.lock
if ! flock -n 9; then
    echo 'Another set-up is at work in this folder; waiting for it to end.'
    flock 9
    if is_complete; then exit 0; fi
fi

if "$python" -m pip --version >/dev/null 2>&1 && is_supported "$python"; then
    echo "Completing the set-up in $venv"
    check_compiler "$python"
else
    find_python
    check_compiler "$base"
    echo "Setting up $venv with $("$base" --version)"
    echo 'It takes about 12 minutes on 2 cores, and 8 GB of disk.'
    make_venv
fi
rm -f "$venv"/.mmflora-*
trap stop_pulse EXIT

# pip unpacks gigabytes: not in a /tmp that may be a small memory disk, and
# where the next run cleans up after a killed one.
rm -rf "$venv"/.tmp-* || true  # a compiler may still be writing there
TMPDIR=$(mktemp -d "$venv/.tmp-XXXXXX")
export TMPDIR
"$python" requirements/sweep.py

step '1/5 PyTorch and build tools (a download of about 3 GB)' \
    pip_install torch torchvision -r requirements/build.txt
choose_mmcv_ops
step '2/5 MMEngine and MMCV (compiles C++: about 6 minutes on 2 cores)' \
    compile_mmcv
rm -rf "${TMPDIR:?}"/*
step '3/5 MMDetection, MMRotate, MMSegmentation, timm, test tools' \
    pip_install --no-build-isolation -r requirements/mminstall.txt \
    -r requirements/runtime.txt -r requirements/tests.txt \
    -r requirements/benchmarks.txt -r requirements/export.txt
# Both OpenCV builds come as dependencies and share one folder. The one without
# a window system goes in last: the other needs libGL, which servers lack.
step '4/5 OpenCV without a window system' \
    pip_install --force-reinstall --no-deps opencv-python-headless
step '5/5 mmflora itself' \
    pip_install --no-build-isolation --no-deps -e .
step 'Checking that everything can be imported' \
    "$python" -c 'import cv2, mmcv.ops, mmdet, mmrotate, mmseg, timm'

rm -rf "$TMPDIR"
: >"$stamp"
echo "The set-up is complete: $venv"
