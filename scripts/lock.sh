#!/usr/bin/env bash
# Resolves all extras in a fresh virtual environment and writes the versions to constraints.txt.
#   lock.sh PYTHON TORCH_INDEX EXTRAS
set -euo pipefail
python=$1 torch_index=$2 extras=$3
torch=torch==2.13.0 # the one pin made by hand: other releases of it are checked before they are taken
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
"$python" -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet ${torch_index:+--index-url "$torch_index" --no-deps} "$torch"
"$place/venv/bin/pip" install --quiet ".[$extras]"
{
  echo "# Every version that the tests ran with; written by \`make lock\`. CUDA's packages follow from torch's own pins."
  { # pins by hand are of extras that have the import name of another one, and so are not installed beside it
    "$place/venv/bin/pip" freeze --exclude atelier --exclude setuptools --exclude pip
    grep -E '^onnxruntime-(gpu|openvino)==' constraints.txt
  } |
    sed -E 's/ @ .*//; s/\+cpu$//; s/\+cu[0-9]+$//' | grep -viE '^(nvidia-|triton|cuda-)' | LC_ALL=C sort -f
} >"$place/constraints.txt"
mv "$place/constraints.txt" constraints.txt
grep -c == constraints.txt | sed 's/$/ versions pinned/'
