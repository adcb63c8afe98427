#!/usr/bin/env bash
# Engines and torch on this machine's NVIDIA GPU, in about ten minutes:
#   benchmarks/gpu.sh [OUT.json] [options of python -m benchmarks.gpu]
# Makes a temporary virtual environment over the system's packages (and so over a torch with CUDA
# that is there) and installs the rest. Where the package index cannot be reached it goes on with
# what is installed. What the GPU or a runtime refuses is in the report, with the reason.
set -euo pipefail
cd "$(dirname "$0")/.."

out=${1:-gpu.json}
shift || true
environment=$(mktemp -d)
trap 'rm -rf "$environment"' EXIT
python3 -m venv --system-site-packages "$environment"
# shellcheck source=/dev/null
source "$environment/bin/activate"
pip install --quiet -e ".[train,export,tensorrt-rtx]" ||
  echo "warning: could not install all packages; going on with what is there" >&2

python -m benchmarks.gpu "$out" "$@"
echo "wrote $out" >&2
